//! Drives the ledger through random answers, failures, stragglers and kills, with a model of the disk and of the
//! provider, and checks the program's guarantees after every step.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{Ledger, LedgerTask, Urgency, Window};
use crate::ident::{BatchId, Cell, StepId};

const STEPS: usize = 2;

/// What survives a kill.
#[derive(Default)]
struct Disk {
    /// Source rows of each planned batch.
    plan: BTreeMap<BatchId, Vec<u64>>,
    /// (batch, row, step) → the answer.
    journal: BTreeMap<Cell, String>,
    /// The committed rows in order: source row and its outputs.
    table: Vec<(u64, Vec<String>)>,
    committed: Option<BatchId>,
    /// Rows that were submitted, by submission. Those of a submission that came back are removed.
    submissions: BTreeMap<u64, BTreeSet<Cell>>,
}

struct World {
    random: fastrand::Rng,
    source_rows: u64,
    window: Window,
    disk: Disk,
    ledger: Ledger,
    /// Outputs in memory.
    outputs: BTreeMap<Cell, String>,
    in_flight: BTreeSet<Cell>,
    stragglers: BTreeSet<Cell>,
    may_straggle: bool,
    /// The task that has the source, while it is under way.
    source_task: Option<LedgerTask>,
    /// Whether rows are submitted, too.
    submits: bool,
    /// (source row, step) → number of paid answers.
    paid: BTreeMap<(u64, usize), u64>,
    /// (source row, step) → number of kills while it was in flight.
    cut: BTreeMap<(u64, usize), u64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let batch_rows = random.u64(1..12);
        let window = Window {
            max_rows: random.u64(1..40),
            max_bytes: random.u64(1..400),
            batch_rows,
            batch_bytes: batch_rows * 10,
        };
        World {
            source_rows: random.u64(0..120),
            window,
            disk: Disk::default(),
            ledger: Ledger::new(window, STEPS, BatchId::FIRST, [], &BTreeSet::new()),
            submits: random.bool(),
            outputs: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            stragglers: BTreeSet::new(),
            may_straggle: true,
            source_task: None,
            paid: BTreeMap::new(),
            cut: BTreeMap::new(),
            random,
        }
    }

    fn source_row(&self, cell: Cell) -> u64 {
        self.disk.plan[&cell.batch][cell.row as usize]
    }

    fn planned_rows(&self) -> u64 {
        self.disk.plan.values().map(|rows| rows.len() as u64).sum()
    }

    /// Kills the process and starts it again from what is on the disk.
    fn kill(&mut self) {
        for cell in std::mem::take(&mut self.in_flight) {
            // The server may or may not have answered what was in flight.
            let key = (self.source_row(cell), cell.step.index());
            if self.random.bool() {
                *self.paid.entry(key).or_default() += 1;
            }
            *self.cut.entry(key).or_default() += 1;
        }
        self.stragglers.clear();
        self.outputs.clear();
        self.source_task = None;
        let next = self.disk.plan.keys().last().map_or(BatchId::FIRST, |last| last.next());
        let left = self.disk.plan.iter().filter(|(id, _)| self.disk.committed.is_none_or(|done| **id > done));
        let left = left.map(|(id, rows)| (*id, rows.len() as u64, rows.len() as u64 * 10));
        // A batch with submitted rows need not be loaded; one that is may find all of them.
        let submitted = self.disk.submissions.values().flatten().map(|cell| cell.batch);
        let unloaded: BTreeSet<BatchId> = submitted.filter(|_| self.random.bool()).collect();
        let left: Vec<_> = left.collect();
        self.ledger = Ledger::new(self.window, STEPS, next, left, &unloaded);
    }

    /// Whether the request of a row is in a submission that has not come back.
    fn is_submitted(&self, cell: Cell) -> bool {
        self.disk.submissions.values().any(|cells| cells.contains(&cell))
    }

    /// Brings a submission back: its answers go into the journal, and what was not answered is ready again.
    fn bring_back(&mut self) -> bool {
        let Some(id) =
            self.disk.submissions.keys().nth(self.random.usize(..self.disk.submissions.len().max(1)))
        else {
            return false;
        };
        let id = *id;
        for cell in &self.disk.submissions[&id] {
            if self.random.u8(..4) > 0 {
                let (source_row, step) = (self.disk.plan[&cell.batch][cell.row as usize], cell.step.index());
                *self.paid.entry((source_row, step)).or_default() += 1;
                self.disk.journal.insert(*cell, format!("answer to {source_row} step {step}"));
            }
        }
        if self.random.u8(..20) == 0 {
            // What it brought is brought again.
            for cell in &self.disk.submissions[&id] {
                if self.disk.journal.remove(cell).is_some() {
                    let key = (self.disk.plan[&cell.batch][cell.row as usize], cell.step.index());
                    *self.paid.entry(key).or_default() -= 1;
                }
            }
            self.kill();
            return true;
        }
        let cells = self.disk.submissions.remove(&id).unwrap_or_default();
        let batches: BTreeSet<BatchId> = cells.iter().map(|cell| cell.batch).collect();
        batches.into_iter().for_each(|batch| self.ledger.returned(batch));
        true
    }

    fn load(&mut self, id: BatchId) {
        let rows = u32::try_from(self.disk.plan[&id].len()).unwrap();
        self.ledger.loaded(id, rows, u64::from(rows) * 10);
        for row in 0..rows {
            self.perhaps_make_urgent(Cell { batch: id, row, step: StepId::FIRST });
        }
    }

    fn perhaps_make_urgent(&mut self, cell: Cell) {
        if self.random.u8(..8) == 0 {
            self.ledger.make_urgent(cell);
        }
    }

    /// Settles a row, which may be urgent in its next step.
    fn settle(&mut self, cell: Cell) {
        self.ledger.settle(cell);
        let step = cell.step.next();
        if step.index() < STEPS {
            self.perhaps_make_urgent(Cell { step, ..cell });
        }
    }

    /// Sends the next row of a step, unless the journal holds the answer. Returns false if there is no row.
    fn hand_out(&mut self, step: StepId, urgency: Urgency) -> bool {
        let Some(cell) = self.ledger.hand_out_next(step, urgency) else { return false };
        if let Some(answer) = self.disk.journal.get(&cell) {
            self.outputs.insert(cell, answer.clone());
            self.settle(cell);
        } else if self.is_submitted(cell) {
            self.ledger.submitted(cell);
        } else if self.submits && self.random.bool() {
            let newest = self.disk.submissions.keys().next_back().copied().unwrap_or_default();
            let id = if self.random.u8(..8) == 0 { newest + 1 } else { newest };
            self.disk.submissions.entry(id).or_default().insert(cell);
            self.ledger.submitted(cell);
        } else {
            assert!(self.in_flight.insert(cell), "{cell} is sent once at a time");
            if self.may_straggle && self.random.u8(..20) == 0 {
                self.stragglers.insert(cell);
            }
        }
        true
    }

    /// Begins a task. One that has the source may take a while, in which other things happen.
    fn begin(&mut self, task: LedgerTask) {
        if matches!(task, LedgerTask::Plan | LedgerTask::Load(_)) {
            assert!(self.source_task.replace(task).is_none(), "one task at a time has the source");
            if self.random.bool() {
                self.finish_source_task();
            }
        } else {
            self.carry_out(task);
        }
    }

    /// Ends the task that has the source. Returns whether there was one.
    fn finish_source_task(&mut self) -> bool {
        let task = self.source_task.take();
        let was_under_way = task.is_some();
        task.into_iter().for_each(|task| self.carry_out(task));
        was_under_way
    }

    fn carry_out(&mut self, task: LedgerTask) {
        match task {
            LedgerTask::Plan => {
                let first = self.planned_rows();
                let most = self.window.batch_rows.min(self.source_rows - first);
                if most == 0 {
                    self.ledger.source_ended();
                    return;
                }
                let rows = self.random.u64(1..=most);
                let next = self.disk.plan.keys().last().map_or(BatchId::FIRST, |last| last.next());
                self.disk.plan.insert(next, (first..first + rows).collect());
                if self.random.u8(..10) == 0 {
                    return self.kill();
                }
                assert_eq!(self.ledger.planned(rows, rows * 10), next);
                self.load(next);
            }
            LedgerTask::Load(id) => self.load(id),
            LedgerTask::Unload(id) => {
                self.outputs.retain(|cell, _| cell.batch != id);
                self.ledger.unloaded(id);
            }
            LedgerTask::Commit(id) => {
                assert_eq!(id, self.disk.committed.map_or(BatchId::FIRST, BatchId::next), "in order, once");
                if self.random.u8(..10) == 0 {
                    return self.kill();
                }
                for (row, source_row) in self.disk.plan[&id].iter().enumerate() {
                    let row = u32::try_from(row).unwrap();
                    let outputs = (0..STEPS)
                        .map(|step| self.outputs[&Cell { batch: id, row, step: StepId::new(step) }].clone());
                    self.disk.table.push((*source_row, outputs.collect()));
                }
                self.disk.committed = Some(id);
                if self.random.u8(..10) == 0 {
                    return self.kill();
                }
                assert_eq!(self.ledger.committed(id), LedgerTask::Forget(id));
                self.carry_out(LedgerTask::Forget(id));
            }
            LedgerTask::Forget(id) => {
                if self.random.u8(..10) == 0 {
                    return self.kill();
                }
                self.disk.journal.retain(|cell, _| cell.batch != id);
                self.outputs.retain(|cell, _| cell.batch != id);
                self.ledger.forgotten(id);
            }
        }
    }

    /// Takes an answer, which is paid for, journalled and settled. A kill may come before it is settled.
    fn answer(&mut self, cell: Cell) {
        self.in_flight.remove(&cell);
        self.stragglers.remove(&cell);
        let source_row = self.source_row(cell);
        match self.random.u8(..10) {
            // The request has no outcome; the row stays pending.
            0 => return self.ledger.give_back(cell),
            // An error of the row itself is not paid for, but settles the row.
            1 => {
                self.outputs.insert(cell, format!("ERROR of {source_row} step {}", cell.step.index()));
                return self.settle(cell);
            }
            _ => {}
        }
        *self.paid.entry((source_row, cell.step.index())).or_default() += 1;
        let answer = format!("answer to {source_row} step {}", cell.step.index());
        self.disk.journal.insert(cell, answer.clone());
        if self.random.u8(..20) == 0 {
            return self.kill();
        }
        self.outputs.insert(cell, answer);
        self.settle(cell);
    }

    fn step(&mut self) {
        match self.random.u8(..100) {
            0 => self.kill(),
            1..40 => {
                if self.random.bool() {
                    self.finish_source_task();
                }
                if let Some(task) = self.ledger.next_task() {
                    self.begin(task);
                }
            }
            40..42 => {
                self.bring_back();
            }
            42..70 => {
                let step = StepId::new(self.random.usize(..STEPS));
                let urgency = if self.random.bool() { Urgency::Urgent } else { Urgency::Usual };
                self.hand_out(step, urgency);
            }
            _ => {
                let release = self.random.u16(..1_000) == 0;
                let ready: Vec<Cell> = self
                    .in_flight
                    .iter()
                    .filter(|cell| release || !self.stragglers.contains(cell))
                    .copied()
                    .collect();
                if !ready.is_empty() {
                    let cell = ready[self.random.usize(..ready.len())];
                    self.answer(cell);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        // Each row is there exactly once, beside its own outputs: the table is a prefix of the source.
        let rows = self.disk.table.iter().map(|(row, _)| *row);
        assert!(rows.eq(0..self.disk.table.len() as u64), "the table holds each row once, in order");
        for (row, outputs) in &self.disk.table {
            for (step, output) in outputs.iter().enumerate() {
                assert!(output.ends_with(&format!(" {row} step {step}")), "row {row} has {output:?}");
            }
        }
        // Nothing is paid twice, except what was in flight at a kill.
        for (key, paid) in &self.paid {
            let cut = self.cut.get(key).copied().unwrap_or_default();
            assert!(*paid <= 1 + cut, "{key:?} was paid {paid} times and cut {cut} times");
        }
        // Memory stays flat: the window holds, except that one batch may always be open.
        let (rows, bytes) = self.ledger.open();
        let largest = self.window.batch_rows;
        assert!(rows <= self.window.max_rows.max(largest), "{rows} rows are open");
        assert!(bytes <= self.window.max_bytes.max(largest * 10), "{bytes} bytes are open");
        assert_eq!(self.ledger.handed_out(), self.in_flight.len() as u64);
    }

    /// Does everything that the window allows while no straggler is answered, to show that a straggler holds up no
    /// other batch.
    fn drain_around_stragglers(&mut self) {
        loop {
            let mut moved = false;
            for step in (0..STEPS).map(StepId::new) {
                for urgency in [Urgency::Urgent, Urgency::Usual] {
                    while self.hand_out(step, urgency) {
                        moved = true;
                    }
                }
            }
            let quick: Vec<Cell> = self.in_flight.difference(&self.stragglers).copied().collect();
            for cell in quick {
                // A kill in between empties the set.
                if self.in_flight.contains(&cell) {
                    self.answer(cell);
                    moved = true;
                }
            }
            moved |= self.finish_source_task();
            while let Some(task) = self.ledger.next_task() {
                self.begin(task);
                self.finish_source_task();
                moved = true;
            }
            if !moved {
                // A batch whose submission came back is read again when its straggler is answered.
                let has_submitted = self.ledger.has_submitted() && self.stragglers.is_empty();
                assert!(has_submitted != self.disk.submissions.is_empty() || !self.stragglers.is_empty());
                moved = self.bring_back();
            }
            self.check();
            if !moved {
                break;
            }
        }
        // What is left is a straggler, or waits for room in the window behind a batch with one.
        let (rows, bytes) = self.ledger.open();
        let full = rows + self.window.batch_rows > self.window.max_rows
            || bytes + self.window.batch_bytes > self.window.max_bytes;
        assert!(self.stragglers.is_superset(&self.in_flight));
        assert!(self.ledger.is_complete() || (full && !self.stragglers.is_empty()) || self.all_is_planned());
    }

    fn all_is_planned(&self) -> bool {
        self.planned_rows() == self.source_rows
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..world.random.u32(0..3_000) {
        world.step();
    }
    world.drain_around_stragglers();
    world.stragglers.clear();
    world.may_straggle = false;
    world.drain_around_stragglers();
    assert!(world.ledger.is_complete() && world.ledger.is_finished());
    assert_eq!(world.disk.table.len() as u64, world.source_rows, "every row is in the table");
    assert!(world.disk.journal.is_empty() || world.disk.committed.is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_lives_keep_every_promise(seed in any::<u64>()) {
        simulate(seed);
    }
}

#[test]
fn a_failed_duty_ends_the_ledger_and_takes_nothing_with_it() {
    let window = Window { max_rows: 10, max_bytes: 100, batch_rows: 2, batch_bytes: 20 };
    for broken in [0, 1, 2] {
        let planned = [(BatchId::FIRST, 1, 10)].into_iter().take(broken.min(1));
        let mut ledger =
            Ledger::new(window, 1, BatchId::new(broken.min(1) as u64), planned, &BTreeSet::new());
        match (broken, ledger.next_task().unwrap()) {
            (0, task @ LedgerTask::Plan) | (1, task @ LedgerTask::Load(_)) => ledger.failed(task),
            (_, LedgerTask::Load(id)) => {
                ledger.loaded(id, 1, 10);
                let cell = ledger.hand_out_next(StepId::FIRST, Urgency::Usual).unwrap();
                ledger.settle(cell);
                let task = ledger.next_task().unwrap();
                assert_eq!(task, LedgerTask::Commit(id));
                ledger.failed(task);
            }
            (_, other) => panic!("{other:?} is not the first duty"),
        }
        assert_eq!(ledger.next_task(), None);
        assert!(ledger.is_finished() && !ledger.is_complete());
    }
}

#[test]
fn a_stopped_ledger_commits_what_is_full_and_ends() {
    let window = Window { max_rows: 10, max_bytes: 100, batch_rows: 2, batch_bytes: 20 };
    let mut ledger = Ledger::new(window, 1, BatchId::FIRST, [], &BTreeSet::new());
    for _ in 0..2 {
        assert_eq!(ledger.next_task(), Some(LedgerTask::Plan));
        let id = ledger.planned(2, 20);
        ledger.loaded(id, 2, 20);
    }
    let next = || ledger.hand_out_next(StepId::FIRST, Urgency::Usual);
    let cells: Vec<Cell> = std::iter::from_fn(next).take(3).collect();
    ledger.stop();
    assert!(!ledger.is_finished(), "three rows are in flight");
    cells.iter().for_each(|cell| ledger.settle(*cell));
    assert!(!ledger.is_finished(), "the first batch is full");
    assert_eq!(ledger.next_task(), Some(LedgerTask::Commit(BatchId::FIRST)));
    assert_eq!(ledger.committed(BatchId::FIRST), LedgerTask::Forget(BatchId::FIRST));
    ledger.forgotten(BatchId::FIRST);
    assert_eq!(ledger.next_task(), None);
    assert!(ledger.is_finished() && !ledger.is_complete());
}

#[test]
fn urgent_rows_are_handed_out_first_and_commits_keep_their_order() {
    let window = Window { max_rows: 10, max_bytes: 100, batch_rows: 2, batch_bytes: 20 };
    let mut ledger = Ledger::new(window, 1, BatchId::FIRST, [], &BTreeSet::new());
    let mut loaded = Vec::new();
    for _ in 0..2 {
        assert_eq!(ledger.next_task(), Some(LedgerTask::Plan));
        let id = ledger.planned(2, 20);
        ledger.loaded(id, 2, 20);
        loaded.push(id);
    }
    let cell = |batch: usize, row| Cell { batch: loaded[batch], row, step: StepId::FIRST };
    ledger.make_urgent(cell(1, 1));
    ledger.make_urgent(cell(1, 0));
    let urgent = [Urgency::Urgent; 3].map(|urgency| ledger.hand_out_next(StepId::FIRST, urgency));
    assert_eq!(urgent, [Some(cell(1, 1)), Some(cell(1, 0)), None]);
    // One that is given back is urgent still.
    ledger.give_back(cell(1, 0));
    let usual = [Urgency::Usual; 3].map(|urgency| ledger.hand_out_next(StepId::FIRST, urgency));
    assert_eq!(usual, [Some(cell(0, 0)), Some(cell(0, 1)), None]);
    assert_eq!(ledger.hand_out_next(StepId::FIRST, Urgency::Urgent), Some(cell(1, 0)));
    ledger.settle(cell(1, 0));
    ledger.settle(cell(1, 1));
    assert_ne!(ledger.next_task(), Some(LedgerTask::Commit(loaded[1])));
    ledger.settle(cell(0, 0));
    ledger.settle(cell(0, 1));
    assert_eq!(ledger.next_task(), Some(LedgerTask::Commit(loaded[0])));
}
