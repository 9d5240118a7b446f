//! Server and references side by side: the same cells, interleaved, on the same cores, judged by paired ratios.
//!
//! A round runs one short window on each target, in an order drawn anew; what the machine does to one round it does to
//! all of its windows. Each ordinary floor has two windows a round: the ratio of the two is the A/A row, which says how
//! much a difference of nothing looks like. So has a variant, the same server with other settings. Connections are new in each window, so that no target keeps lucky sockets;
//! connecting and warm-up come before the window, the counters of requests and reads are asked before and after it all.

mod cell;
mod gate;
mod judge;
mod report;
mod target;

pub use cell::{Cell, Rounds, Sample, Slot, run as run_cell};
pub use gate::{Gate, Over, Ruling, issue_gates, peer_gates};
pub use judge::{CellReport, Figures, Ratio, judge};
pub use report::{Report, mebibytes, print_cell, print_gates};
pub use target::{Kind, PEERS, Target};

use crate::error::{Context, Result};
use crate::process::child::{PeerServer, Server};
use crate::process::memory::Memory;
use crate::request;
use std::path::PathBuf;

/// What to run.
#[derive(Clone)]
pub struct Options<'s> {
    /// CPU of the references.
    pub reference_cpu: usize,
    /// CPU of the generator.
    pub generator_cpu: usize,
    /// This program: references are its subcommands.
    pub program: PathBuf,
    /// References to compare with.
    pub references: Vec<Kind>,
    /// Where the programs of the peers are; `None`: no peer.
    pub peers: Option<PathBuf>,
    /// The server again, with other settings; `None`: no variant.
    pub variant: Option<&'s Server>,
    /// What to ask.
    pub cells: Vec<Cell>,
    /// How often and how long.
    pub rounds: Rounds,
}

/// Runs all cells on a started server, cell by cell, and hands each report to `show` as soon as there is one.
pub fn run(server: &Server, options: &Options<'_>, mut show: impl FnMut(&CellReport)) -> Result<Vec<CellReport>> {
    let mut reports = Vec::new();
    for &cell in &options.cells {
        let response = server.capture(cell.limit)?;
        let file = server.data_directory().join("response");
        std::fs::write(&file, &response).context("storing the captured response")?;
        let mut targets = vec![Target::Server(server)];
        targets.extend(options.variant.map(Target::Variant));
        for &kind in &options.references {
            targets.push(Target::start_reference(
                kind,
                &options.program,
                options.reference_cpu,
                &file,
                cell.request().len(),
            )?);
        }
        if let Some(directory) = &options.peers {
            let bodies = server.data_directory();
            let target = request::list_target(cell.limit);
            let body = server.body(cell.limit)?;
            std::fs::write(bodies.join(format!("limit-{}.json", cell.limit)), &body).context("storing a body")?;
            for kind in PEERS {
                let program = directory.join(kind.name());
                let peer = PeerServer::start(&program, options.reference_cpu, bodies, &target, &body)?;
                targets.push(Target::Peer { kind, server: peer });
            }
        }
        let mut report = run_cell(cell, &mut targets, &options.rounds, options.generator_cpu)?;
        report.response_bytes = response.len();
        report.server_memory = Some(Memory::read(server.pid()).context("reading the server's memory")?);
        show(&report);
        reports.push(report);
    }
    Ok(reports)
}
