//! The memory of a query, of which each sort and each group has a small share from the beginning.
//!
//! DataFusion's own pools give a sort that comes first what it asks for. It keeps that until its rows are read, and the
//! sorts behind it, which could spill, fail for want of memory to begin with.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::{DataFusionError, Result, resources_datafusion_err};
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};

/// Number of sorts, groups and buffers for which there is memory: a join by sorting has up to eight.
const SHARES: usize = 32;
/// Beginning of DataFusion's name for a sort that reads back what it has spilled, and the number of those for which there is
/// memory.
const MERGE: &str = "ExternalSorterMerge";
const MERGES: usize = 10;

/// Memory of so many bytes, of which one that can spill has at most a small share.
#[derive(Debug)]
pub(super) struct QueryMemory {
    bytes: usize,
    used: AtomicUsize,
}

impl QueryMemory {
    pub(super) fn new(bytes: usize) -> Self {
        QueryMemory { bytes, used: AtomicUsize::new(0) }
    }
}

impl fmt::Display for QueryMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({} bytes)", self.name(), self.bytes)
    }
}

impl MemoryPool for QueryMemory {
    fn name(&self) -> &str {
        "query"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::Relaxed);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::Relaxed);
    }

    fn try_grow(&self, reservation: &MemoryReservation, additional: usize) -> Result<()> {
        let short = || -> DataFusionError {
            let megabytes = self.bytes / 1_000_000;
            let name = reservation.consumer().name();
            resources_datafusion_err!("it takes more than {megabytes} MB of memory ({name})")
        };
        let consumer = reservation.consumer();
        let most = match (consumer.can_spill(), consumer.name().starts_with(MERGE)) {
            (true, _) => self.bytes / SHARES,
            // It opens as many of its files at once as there is memory for.
            (false, true) => self.bytes / MERGES,
            (false, false) => self.bytes,
        };
        if reservation.size() + additional > most {
            return Err(short());
        }
        let grown = |used: usize| Some(used + additional).filter(|used| *used <= self.bytes);
        let grown = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        grown.map(|_| ()).map_err(|_| short())
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.bytes)
    }
}
