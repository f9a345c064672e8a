//! Drives a ledger whose batches come one by one, are committed as they fill, and may be withdrawn.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{CommitOrder, Ledger, LedgerTask, Urgency, Window};
use crate::ident::{BatchId, Cell, StepId};

const STEPS: usize = 2;

struct PostingWorld {
    random: fastrand::Rng,
    ledger: Ledger,
    window: Window,
    /// Rows of batches that are yet to be planned.
    posted: Vec<u32>,
    is_planning: bool,
    committing: Option<BatchId>,
    in_flight: BTreeSet<Cell>,
    open: BTreeSet<BatchId>,
    withdrawn: BTreeSet<BatchId>,
    committed: BTreeSet<BatchId>,
    dropped: BTreeSet<BatchId>,
}

impl PostingWorld {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let window =
            Window { max_rows: random.u64(10..60), max_bytes: 10_000, batch_rows: 10, batch_bytes: 100 };
        let ledger = Ledger::new(window, STEPS, BatchId::FIRST, [], &BTreeSet::new());
        PostingWorld {
            posted: (0..random.usize(1..30)).map(|_| random.u32(1..=10)).collect(),
            ledger: ledger.with_order(CommitOrder::AsFilled),
            window,
            random,
            is_planning: false,
            committing: None,
            in_flight: BTreeSet::new(),
            open: BTreeSet::new(),
            withdrawn: BTreeSet::new(),
            committed: BTreeSet::new(),
            dropped: BTreeSet::new(),
        }
    }

    /// Does something at random. Returns false if nothing is left to do.
    fn step(&mut self) -> bool {
        match self.random.u8(..10) {
            0..4 => self.carry_out(),
            4..7 => self.hand_out(),
            7..9 => self.answer(),
            _ => self.withdraw(),
        }
        let (rows, _) = self.ledger.open();
        assert!(rows <= self.window.max_rows, "{rows} rows are open");
        assert_eq!(self.ledger.handed_out(), self.in_flight.len() as u64);
        !self.ledger.is_complete()
    }

    fn carry_out(&mut self) {
        if self.is_planning && self.random.bool() {
            self.is_planning = false;
            match self.posted.pop() {
                None => self.ledger.source_ended(),
                Some(rows) => {
                    let id = self.ledger.planned(rows.into(), 10 * u64::from(rows));
                    self.ledger.loaded(id, rows, 10 * u64::from(rows));
                    self.open.insert(id);
                }
            }
        }
        if let Some(id) = self.committing.take_if(|_| self.random.bool()) {
            self.ledger.committed(id);
            self.ledger.forgotten(id);
        }
        match self.ledger.next_task() {
            Some(LedgerTask::Plan) => self.is_planning = true,
            Some(LedgerTask::Unload(id)) => {
                assert!(self.withdrawn.contains(&id) && self.open.remove(&id));
                assert!(!self.in_flight.iter().any(|cell| cell.batch == id), "rows of {id} are under way");
                self.dropped.insert(id);
                self.ledger.unloaded(id);
            }
            Some(LedgerTask::Commit(id)) => {
                assert!(self.open.remove(&id) && self.committed.insert(id), "{id} is committed once");
                assert!(self.committing.replace(id).is_none(), "one commit goes on at a time");
            }
            Some(other) => panic!("{other:?}: nothing is to be read"),
            None => {}
        }
    }

    fn hand_out(&mut self) {
        let step = StepId::new(self.random.usize(..STEPS));
        if let Some(cell) = self.ledger.hand_out_next(step, Urgency::Usual) {
            assert!(!self.withdrawn.contains(&cell.batch), "nobody waits for {cell}");
            assert!(self.in_flight.insert(cell));
        }
    }

    fn answer(&mut self) {
        let Some(cell) = self.in_flight.iter().nth(self.random.usize(..self.in_flight.len().max(1))) else {
            return;
        };
        let cell = *cell;
        self.in_flight.remove(&cell);
        match self.random.u8(..10) {
            0 => self.ledger.give_back(cell),
            _ => self.ledger.settle(cell),
        }
    }

    fn withdraw(&mut self) {
        if self.random.u8(..4) == 0
            && let Some(id) = self.open.iter().nth(self.random.usize(..self.open.len().max(1)))
        {
            self.ledger.withdraw(*id);
            self.withdrawn.insert(*id);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_batch_is_committed_or_dropped_and_none_holds_up_another(seed in any::<u64>()) {
        let mut world = PostingWorld::new(seed);
        let posted = world.posted.len();
        let mut steps = 0;
        while world.step() {
            steps += 1;
            assert!(steps < 100_000, "it does not end");
        }
        assert!(world.ledger.is_finished() && world.open.is_empty());
        assert_eq!(world.committed.len() + world.dropped.len(), posted);
        assert!(world.dropped.is_subset(&world.withdrawn));
    }
}

#[test]
fn a_slow_batch_holds_up_no_other() {
    let window = Window { max_rows: 10, max_bytes: 100, batch_rows: 2, batch_bytes: 20 };
    let ledger = Ledger::new(window, 1, BatchId::FIRST, [], &BTreeSet::new());
    let mut ledger = ledger.with_order(CommitOrder::AsFilled);
    let mut ids = Vec::new();
    for _ in 0..2 {
        assert_eq!(ledger.next_task(), Some(LedgerTask::Plan));
        let id = ledger.planned(1, 10);
        ledger.loaded(id, 1, 10);
        ids.push(id);
    }
    let cells = [0, 1].map(|_| ledger.hand_out_next(StepId::FIRST, Urgency::Usual).unwrap());
    ledger.settle(cells[1]);
    assert_eq!(ledger.next_task(), Some(LedgerTask::Commit(ids[1])));
}
