//! Deliberate defects: rules that can be broken on purpose, one at a time, so that the simulator can show that it would
//! notice. Without the feature `defects` none can be, and nothing of this is left in the program.

/// A rule that is broken. The names are those in the protocol's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Defect {
    /// Nobody minds that the store, the log and a process count the partitions differently.
    NoPartCount,
    /// A log is not compared with the record that was applied last.
    NoLastHash,
    /// A batch is written wherever the partition stands.
    NoFence,
    /// What comes twice or late is applied again.
    NoProducerNumber,
    /// Tombstones go while late copies can still come.
    EarlyPurge,
    /// A follower moves with the first piece.
    PartsMoveEarly,
    /// A load reads the positions after the rows, in another moment.
    PositionsAfterRows,
    /// A follower takes changes whose predecessors it has missed.
    GapIgnored,
    /// A slice's tag is made of the snapshot's version instead of its bytes.
    TagByVersion,
}

impl Defect {
    /// All of them.
    pub const ALL: [Defect; 9] = [
        Defect::NoPartCount,
        Defect::NoLastHash,
        Defect::NoFence,
        Defect::NoProducerNumber,
        Defect::EarlyPurge,
        Defect::PartsMoveEarly,
        Defect::PositionsAfterRows,
        Defect::GapIgnored,
        Defect::TagByVersion,
    ];

    /// As it stands in the protocol's page.
    pub const fn name(self) -> &'static str {
        match self {
            Defect::NoPartCount => "no-part-count",
            Defect::NoLastHash => "no-last-hash",
            Defect::NoFence => "no-fence",
            Defect::NoProducerNumber => "no-producer-number",
            Defect::EarlyPurge => "early-purge",
            Defect::PartsMoveEarly => "parts-move-early",
            Defect::PositionsAfterRows => "positions-after-rows",
            Defect::GapIgnored => "gap-ignored",
            Defect::TagByVersion => "tag-by-version",
        }
    }
}

/// Whether this thread breaks the rule.
#[cfg(not(feature = "defects"))]
pub const fn is_on(_: Defect) -> bool {
    false
}

/// Whether this thread breaks the rule.
#[cfg(feature = "defects")]
pub fn is_on(defect: Defect) -> bool {
    ON.get() == Some(defect)
}

/// Breaks one rule on this thread from now on, or none.
#[cfg(feature = "defects")]
pub fn set(defect: Option<Defect>) {
    ON.set(defect);
}

#[cfg(feature = "defects")]
thread_local! {
    static ON: std::cell::Cell<Option<Defect>> = const { std::cell::Cell::new(None) };
}
