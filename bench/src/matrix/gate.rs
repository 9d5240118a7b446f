//! Bounds on ratios. A gate fails only when the whole interval lies above it: noise alone never fails one.

use crate::error::{Error, Result};
use crate::matrix::cell::Fields;
use crate::matrix::{Cell, CellReport, Kind, Ratio};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The denominator of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Over {
    /// The better ordinary floor.
    Floor,
    /// The floor by sendfile: for what is large enough to leave so.
    Sendfile,
    /// The empty loop.
    Loop,
    /// The same server with other settings.
    Variant,
    /// The peer with the least CPU, the original apart.
    BestPeer,
    /// The original's stack.
    Original,
}

impl FromStr for Over {
    type Err = Error;

    fn from_str(text: &str) -> Result<Over> {
        match text {
            "floor" => Ok(Over::Floor),
            "sendfile" => Ok(Over::Sendfile),
            "loop" => Ok(Over::Loop),
            "variant" => Ok(Over::Variant),
            "best-peer" => Ok(Over::BestPeer),
            "original" => Ok(Over::Original),
            _ => Err(Error::Unusable(format!(
                "over is floor, sendfile, loop, variant, best-peer or original, not {text}"
            ))),
        }
    }
}

/// A bound. Written `limit=10,conns=64,depth=1,over=floor,max=1.10`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Gate {
    /// Of this cell.
    pub cell: Cell,
    /// Over this reference.
    pub over: Over,
    /// The largest good ratio.
    pub ratio_max: f64,
}

impl FromStr for Gate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Gate> {
        let mut fields = Fields::parse(text)?;
        let gate = Gate { cell: fields.take_cell()?, over: fields.take("over")?, ratio_max: fields.take("max")? };
        fields.end()?;
        Ok(gate)
    }
}

/// What a gate says about a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ruling {
    /// Some of the interval is at or below the bound.
    Passed,
    /// All of the interval is above the bound, or answers were wrong.
    Failed,
    /// The run cannot tell, for this reason.
    Unjudged(String),
}

impl Gate {
    /// Rules on the reports of a run.
    pub fn rule(&self, reports: &[CellReport]) -> Ruling {
        let Some(report) = reports.iter().find(|report| report.cell == self.cell) else {
            return Ruling::Unjudged("the cell was not run".into());
        };
        if !report.faults.is_empty() {
            return Ruling::Failed;
        }
        let Some(Ratio { estimate, unjudged, .. }) = self.ratio(report) else {
            return Ruling::Unjudged("the reference was not run".into());
        };
        match unjudged {
            Some(reason) => Ruling::Unjudged(reason.clone()),
            None if estimate.low > self.ratio_max => Ruling::Failed,
            None => Ruling::Passed,
        }
    }

    fn ratio<'r>(&self, report: &'r CellReport) -> Option<&'r Ratio> {
        let over = match self.over {
            Over::Floor => report.best_floor?,
            Over::Sendfile => Kind::FloorSendfile,
            Over::Loop => Kind::Loop,
            Over::Variant => Kind::Variant,
            Over::BestPeer => report.best_peer()?,
            Over::Original => Kind::PeerOriginal,
        };
        report.ratios.iter().find(|ratio| ratio.kind == Kind::Server && ratio.over == over)
    }
}

/// What the project holds itself to, over the floor that a cell's bytes allow and over the empty loop.
pub fn issue_gates() -> Vec<Gate> {
    let gate = |limit, connections_count, depth, over, ratio_max| Gate {
        cell: Cell { limit, connections_count, depth },
        over,
        ratio_max,
    };
    vec![
        gate(10, 64, 1, Over::Floor, 1.10),
        gate(10, 64, 1, Over::Loop, 1.03),
        gate(10, 64, 16, Over::Floor, 1.10),
        gate(10, 64, 16, Over::Loop, 1.03),
        gate(10, 64, 80, Over::Sendfile, 1.10),
        gate(10, 2_000, 80, Over::Sendfile, 1.15),
        gate(1, 64, 80, Over::Floor, 1.10),
        gate(1_000, 64, 1, Over::Sendfile, 1.10),
    ]
}

/// What the project holds itself to beside its peers.
pub fn peer_gates() -> Vec<Gate> {
    let cell = Cell { limit: 10, connections_count: 64, depth: 80 };
    vec![
        Gate { cell, over: Over::BestPeer, ratio_max: 0.5 },
        Gate { cell, over: Over::Original, ratio_max: 1.0 / 200.0 },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::judge;
    use crate::matrix::judge::tests::{CELL, lineup};

    #[test]
    fn gates() {
        let gate: Gate = "limit=10,conns=64,depth=1,over=floor,max=1.10".parse().unwrap();
        assert_eq!(gate, issue_gates()[0]);
        for text in ["limit=10,conns=64,depth=1,max=1.1", "limit=10,conns=64,depth=1,over=ngnix,max=1.1"] {
            assert!(text.parse::<Gate>().is_err(), "{text}");
        }
    }

    #[test]
    fn rulings() {
        let rule = |server, spoil: fn(&mut CellReport), over, ratio_max| {
            let (slots, samples) = lineup(server);
            let mut report = judge(CELL, &slots, samples, Vec::new(), 1);
            spoil(&mut report);
            Gate { cell: CELL, over, ratio_max }.rule(&[report])
        };
        let keep: fn(&mut CellReport) = |_| {};
        assert_eq!(rule(1.1, keep, Over::Floor, 1.15), Ruling::Passed);
        // The interval reaches over 1.1 on both sides: not proven to be above.
        assert_eq!(rule(1.1, keep, Over::Floor, 1.1), Ruling::Passed);
        assert_eq!(rule(1.2, keep, Over::Floor, 1.15), Ruling::Failed);
        assert!(matches!(rule(1.1, keep, Over::Loop, 1.15), Ruling::Unjudged(_)));
        assert!(matches!(Gate { cell: CELL, over: Over::Floor, ratio_max: 2.0 }.rule(&[]), Ruling::Unjudged(_)));
        assert_eq!(rule(1.1, |report| report.faults.push("server".into()), Over::Floor, 1.15), Ruling::Failed);
        let reason = Ruling::Unjudged("noise".into());
        assert_eq!(rule(1.2, |report| report.ratios[0].unjudged = Some("noise".into()), Over::Floor, 1.15), reason);
    }
}
