//! Drives a submission through lost answers, lists that lag and kills, with a model of the provider, and checks that its
//! requests are paid for once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;

use super::submission::{CreationResult, SubmissionAction, SubmissionDriver, SubmissionPolicy};
use crate::checkpoint::{Submission, SubmissionState};
use crate::ident::{Lineage, RunId, Spend, SubmissionId};
use crate::wire::{BatchStatus, RemoteBatch, RequestCounts};

const MINUTE: TimeDelta = TimeDelta::minutes(1);

/// A batch at the provider.
struct ProviderBatch {
    id: String,
    at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    is_cancelled: bool,
}

struct ProviderWorld {
    random: fastrand::Rng,
    now: DateTime<Utc>,
    /// What is on the disk.
    saved: Submission,
    live: Submission,
    driver: SubmissionDriver,
    policy: SubmissionPolicy,
    has_file: bool,
    batches: Vec<ProviderBatch>,
    /// Times at which batches are made whose creation was cut off.
    late: Vec<DateTime<Utc>>,
    /// Time for which the list does not show a batch.
    list_lag: TimeDelta,
    /// Time after which a batch is made whose creation was cut off.
    late_by: TimeDelta,
    takes: TimeDelta,
    has_trouble: bool,
    lost_answers: usize,
}

fn submission() -> Submission {
    Submission {
        id: SubmissionId::random(),
        number: 1,
        lineage: Lineage::random(),
        machine: serde_json::from_str("\"00000000-0000-0000-0000-000000000001\"").unwrap(),
        run: RunId::random(),
        provider: "p".into(),
        model: "m".into(),
        address: "http://127.0.0.1/v1".into(),
        endpoint: "/v1/chat/completions".into(),
        steps: vec!["answer".into()],
        files: Vec::new(),
        batches: BTreeMap::new(),
        follower_batches: BTreeSet::new(),
        without_rows: false,
        lines: 10,
        bytes: 1_000,
        prompt_tokens: 100,
        worst: Spend::default(),
        worst_request: Spend::default(),
        state: SubmissionState::Sealed,
        since: DateTime::UNIX_EPOCH,
        file: None,
        uploaded_at: None,
        remote: Vec::new(),
        looks: 0,
        made_again: 0,
        took: None,
        counted: BTreeSet::new(),
    }
}

impl ProviderWorld {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let policy = SubmissionPolicy {
            recreate_after: Duration::from_secs(900),
            is_idempotent: false,
            poll: Duration::from_secs(60),
            deadline: Duration::from_secs(26 * 3600),
        };
        let submission = submission();
        ProviderWorld {
            now: DateTime::UNIX_EPOCH,
            saved: submission.clone(),
            live: submission,
            driver: SubmissionDriver::new(policy, true),
            policy,
            has_file: false,
            batches: Vec::new(),
            late: Vec::new(),
            list_lag: MINUTE * random.i32(0..20),
            late_by: MINUTE * random.i32(0..20),
            takes: MINUTE * random.i32(0..3_000),
            has_trouble: true,
            lost_answers: 0,
            random,
        }
    }

    fn happens(&mut self, one_in: u8) -> bool {
        self.has_trouble && self.random.u8(..one_in) == 0
    }

    fn kill(&mut self) {
        if self.saved.state == SubmissionState::Creating {
            // The answer to the creation is lost with the process, if it was sent.
            self.lost_answers += 1;
        }
        self.live = self.saved.clone();
        self.driver = SubmissionDriver::new(self.policy, false);
    }

    fn save(&mut self) {
        if !self.happens(20) {
            self.saved = self.live.clone();
        } else {
            self.kill();
        }
    }

    fn make(&mut self) {
        let id = format!("batch_{}", self.batches.len());
        let ends_at = self.now + self.takes;
        self.batches.push(ProviderBatch { id, at: self.now, ends_at, is_cancelled: false });
    }

    fn advance(&mut self, to: DateTime<Utc>) {
        for at in std::mem::take(&mut self.late) {
            if at > to {
                self.late.push(at);
                continue;
            }
            self.now = self.now.max(at);
            self.make();
        }
        self.now = self.now.max(to);
    }

    fn shown(&self, made: &ProviderBatch) -> RemoteBatch {
        let has_ended = made.is_cancelled || made.ends_at <= self.now;
        let status = match (made.is_cancelled, has_ended) {
            (true, _) => BatchStatus::Cancelled,
            (false, true) => BatchStatus::Completed,
            (false, false) => BatchStatus::Running,
        };
        RemoteBatch {
            id: made.id.clone(),
            status,
            input_file_id: None,
            output_file_id: has_ended.then(|| "out".to_owned()),
            error_file_id: None,
            created_at: Some(made.at),
            expires_at: None,
            request_counts: Some(RequestCounts { total: 10, completed: 1, failed: 0 }),
            errors: None,
            usage: None,
            metadata: None,
        }
    }

    fn listed(&self) -> Vec<RemoteBatch> {
        let listed = self.batches.iter().filter(|made| made.at + self.list_lag <= self.now);
        listed.map(|made| self.shown(made)).collect()
    }

    /// Does what is next. Returns `false` at the end.
    fn step(&mut self) -> bool {
        let next = self.driver.next(&self.live, self.now);
        let fails = self.happens(6);
        match next {
            SubmissionAction::Wait(until) => {
                assert!(until > self.now, "it waits for the past");
                self.advance(until);
            }
            SubmissionAction::Nothing => return false,
            _ if fails
                && !matches!(
                    next,
                    SubmissionAction::Create | SubmissionAction::Upload | SubmissionAction::Collect
                ) =>
            {
                self.driver.failed(None, self.now);
            }
            SubmissionAction::FindFile => {
                if self.has_file {
                    self.driver.uploaded(&mut self.live, "file", self.now);
                } else {
                    self.driver.file_not_found();
                }
            }
            SubmissionAction::Upload => {
                let is_lost = self.happens(4);
                self.has_file |= is_lost || !fails;
                if is_lost || fails {
                    self.driver.upload_failed(is_lost, self.now);
                } else {
                    self.driver.uploaded(&mut self.live, "file", self.now);
                }
            }
            SubmissionAction::Create => {
                assert!(self.live.file.is_some());
                self.driver.creating(&mut self.live, self.now);
                let before = self.saved.state;
                self.save();
                if self.live.state != SubmissionState::Creating {
                    assert_eq!(self.live.state, before);
                    return true;
                }
                self.create(fails);
            }
            SubmissionAction::Look => {
                let listed = self.listed();
                self.driver.looked(&mut self.live, &listed, self.now);
            }
            SubmissionAction::Poll => {
                let listed = self.listed();
                let known: Vec<String> = self.live.remote.iter().map(|copy| copy.id.clone()).collect();
                let mut asked: Vec<(String, Option<RemoteBatch>)> =
                    listed.into_iter().map(|batch| (batch.id.clone(), Some(batch))).collect();
                for id in known {
                    if asked.iter().all(|(listed, _)| *listed != id) {
                        let made = self.batches.iter().find(|made| made.id == id);
                        let found = made.map(|made| self.shown(made));
                        // A batch that is not found is not gone.
                        asked.push((id, found.filter(|_| !fails)));
                    }
                }
                self.driver.polled(&mut self.live, &asked, self.now);
            }
            SubmissionAction::Cancel(id) => {
                let made = self.batches.iter_mut().find(|made| made.id == id).expect("it was made");
                made.is_cancelled |= made.ends_at > self.now;
                self.driver.cancelled(&mut self.live, &id, self.now);
            }
            SubmissionAction::Collect => {
                self.live.state = SubmissionState::Collected;
            }
        }
        self.save();
        true
    }

    fn create(&mut self, fails: bool) {
        match self.random.u8(..if fails { 4 } else { 1 }) {
            // It is made, and the answer is lost.
            1 => {
                self.make();
                self.lost_answers += 1;
                self.driver.created(&mut self.live, &CreationResult::Unclear, self.now);
            }
            // It is made later.
            2 => {
                self.late.push(self.now + self.late_by);
                self.lost_answers += 1;
                self.driver.created(&mut self.live, &CreationResult::Unclear, self.now);
            }
            3 => {
                let is_about_file = self.random.bool();
                let refused = CreationResult::Refused { again_after: None, is_about_file };
                self.driver.created(&mut self.live, &refused, self.now);
            }
            _ => {
                self.make();
                let batch = self.shown(self.batches.last().expect("it was made"));
                self.driver.created(&mut self.live, &CreationResult::Made(&batch), self.now);
            }
        }
    }
}

fn simulate(seed: u64) {
    let mut world = ProviderWorld::new(seed);
    let troubled = world.random.u32(0..200);
    let mut steps = 0;
    while world.step() {
        steps += 1;
        assert!(steps < 20_000, "it does not end: {:?}", world.live);
        world.has_trouble = steps < troubled;
        if world.happens(30) {
            world.kill();
        }
        // Time goes on while no run looks.
        if world.happens(30) {
            let hours = TimeDelta::hours(world.random.i64(0..10));
            let to = world.now + hours;
            world.advance(to);
        }
    }
    assert_eq!(world.live.state, SubmissionState::Collected);
    let made = world.batches.len();
    assert!((1..=1 + world.lost_answers).contains(&made), "{made} batches, {} lost", world.lost_answers);
    // A list that shows a batch before it is made again never lets two come about.
    if world.list_lag + world.late_by < MINUTE * 15 {
        assert_eq!(made, 1, "lag {} late {}", world.list_lag, world.late_by);
    }
    // Every batch that was made is known, unless it came to be after the others had ended.
    assert!(!world.live.remote.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_submission_is_paid_for_once(seed in any::<u64>()) {
        simulate(seed);
    }
}
