//! One node's executor, without peers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cirrus_engine::{ShardHead, effect};
use cirrus_proto::Reason;
use cirrus_proto::internal::v1 as pb;
use cirrus_proto::limits::Limits;
use futures::future::join_all;
use prost::Message as _;
use tokio::sync::oneshot;

use super::{
    DiskStall, HALF_WRITTEN, REFUSED, SLOW, Settings, TestNode, increment, incremented, put, soon, until, value,
};
use crate::executor::IN_FLIGHT_MAX;
use crate::shard::Shard;
use crate::state_machine::read_fence;
use crate::types::{ApplyOutcome, Completion, ProposalBytes};

#[tokio::test(flavor = "multi_thread")]
async fn commands_see_effects_in_flight_and_are_answered_once_these_are_durable_and_applied() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    let applied_before = shard.applied_next();
    let stall = DiskStall::begin(&node);
    let mut answers = Vec::new();
    for nth in 1..=IN_FLIGHT_MAX {
        let submitted = shard.submit(increment("counter"), soon()).unwrap();
        answers.push(tokio::spawn(submitted.outcome()));
        // One at a time, so that each is a proposal of its own.
        until("it is evaluated", || node.evaluations.begun() == nth).await;
    }
    assert_eq!((value(&shard, "counter"), shard.applied_next()), (None, applied_before), "nothing can be applied yet");
    assert!(answers.iter().all(|answer| !answer.is_finished()), "so nothing may be answered");

    drop(stall);
    for (nth, answer) in answers.into_iter().enumerate() {
        let executed = answer.await.unwrap().unwrap();
        assert_eq!(incremented(&executed), nth as i64 + 1, "evaluated on top of those before it");
        assert!(shard.applied_next() > executed.applied_index);
    }
    assert_eq!(value(&shard, "counter").unwrap(), IN_FLIGHT_MAX.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_takes_too_long_is_evaluated_anew_on_the_shards_thread() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    let submitted: Vec<_> = (0..3).map(|nth| shard.submit(put(SLOW, nth.to_string()), soon())).collect();
    for submitted in submitted {
        submitted.unwrap().outcome().await.unwrap();
    }
    assert_eq!(value(&shard, SLOW).unwrap(), "2", "in the order in which they came");
    assert_eq!(value(&shard, HALF_WRITTEN), None, "what was given up leaves nothing");
    assert_eq!(node.evaluations.begun(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_comes_after_its_effects_are_readable() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    join_all((0..200).map(|nth| {
        let shard = shard.clone();
        async move {
            let key = format!("key{nth}");
            shard.execute(put(key.clone(), "v"), soon()).await.unwrap();
            assert_eq!(value(&shard, &key).unwrap(), "v");
        }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_wait_together_share_an_entry_and_keep_their_order() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    node.evaluations.hold();
    let mut submitted = vec![shard.submit(increment("counter"), soon()).unwrap()];
    until("the executor is busy", || node.evaluations.begun() == 1).await;
    submitted.extend((0..200).map(|_| shard.submit(increment("counter"), soon()).unwrap()));
    node.evaluations.release();

    let mut entries = BTreeSet::new();
    for (nth, submitted) in submitted.into_iter().enumerate() {
        let executed = submitted.outcome().await.unwrap();
        assert_eq!(incremented(&executed), nth as i64 + 1);
        entries.insert(executed.applied_index);
    }
    assert!(entries.len() <= 3, "201 commands in entries {entries:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_fails_leaves_nothing_and_its_neighbours_take_effect() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    node.evaluations.hold();
    let keys = ["first", "before", REFUSED, "after"];
    let submitted = keys.map(|key| shard.submit(put(key, "v"), soon()).unwrap());
    node.evaluations.release();

    let [first, before, refused, after] = submitted.map(|submitted| submitted.outcome());
    assert_eq!(refused.await.unwrap_err().reason, Reason::ProcedureFailed);
    for succeeded in [first, before, after] {
        succeeded.await.unwrap();
    }
    for key in ["first", "before", "after"] {
        assert_eq!(value(&shard, key).unwrap(), "v", "{key}");
    }
    assert_eq!(value(&shard, HALF_WRITTEN), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_shard_requires_of_the_catalog_is_kept_without_other_effects() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    for (asked, expected) in [(7, 7), (5, 7), (9, 9)] {
        let kind = pb::command::Kind::RequireCatalog(pb::RequireCatalog { catalog_index: asked });
        shard.execute(pb::Command { kind: Some(kind) }, soon()).await.unwrap();
        let kept = ShardHead::load(&shard.view()).unwrap();
        assert_eq!(kept.catalog_index, expected, "a later leader must know it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_mailbox_refuses_at_once_and_takes_commands_again_once_it_has_room() {
    let limits = Limits { mailbox_commands: 8, ..Limits::DEFAULT };
    let node = TestNode::lead_alone(Settings { limits, ..Settings::default() }).await;
    let shard = node.shard();
    node.evaluations.hold();
    let mut submitted = vec![shard.submit(increment("counter"), soon()).unwrap()];
    until("the executor is busy", || node.evaluations.begun() == 1).await;
    let failure = loop {
        match shard.submit(increment("counter"), soon()) {
            Ok(waiting) => submitted.push(waiting),
            Err(failure) => break failure,
        }
    };
    assert_eq!(failure.reason, Reason::MailboxFull);
    assert_eq!(failure.metadata["limit"], "8");
    assert!(failure.retry_after.is_some());
    assert_eq!(submitted.len(), 9, "the one that is evaluated, and eight that wait");

    node.evaluations.release();
    for submitted in submitted {
        submitted.outcome().await.unwrap();
    }
    let last = shard.execute(increment("counter"), soon()).await.unwrap();
    assert_eq!(incremented(&last), 10, "the refused one did not count");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_whose_deadline_passed_while_it_waited_is_never_evaluated() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    node.evaluations.hold();
    let first = shard.submit(increment("counter"), soon()).unwrap();
    until("the executor is busy", || node.evaluations.begun() == 1).await;
    let deadline = Instant::now() + Duration::from_millis(20);
    // One whose client waits and gives up by itself, and one that the executor finds too old.
    let impatient = shard.execute(increment("counter"), deadline).await;
    let forgotten = shard.submit(increment("counter"), deadline).unwrap();
    let last = shard.submit(increment("counter"), soon()).unwrap();
    tokio::time::sleep_until(deadline.into()).await;
    node.evaluations.release();

    assert_eq!(impatient.unwrap_err().reason, Reason::DeadlineExceeded);
    assert_eq!(incremented(&first.outcome().await.unwrap()), 1);
    assert_eq!(incremented(&last.outcome().await.unwrap()), 2);
    assert_eq!(forgotten.outcome().await.unwrap_err().reason, Reason::DeadlineExceeded);
    assert_eq!(node.evaluations.begun(), 2);
    assert_eq!(value(&shard, "counter").unwrap(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_a_stop_without_a_flush() {
    let mut node = TestNode::lead_alone(Settings::default()).await;
    for restarts in 0..2 {
        let shard = node.shard();
        let writes = join_all((0..100).map(|_| shard.execute(increment("counter"), soon()))).await;
        let last = writes.iter().map(|write| incremented(write.as_ref().unwrap())).max();
        assert_eq!(last, Some(100 * (restarts + 1)), "it went on from what it had");
        let (term, applied) = (shard.report().term, shard.applied_next());
        drop(shard);

        node = node.crash_and_restart().await;
        node.until_it_leads().await;
        let shard = node.shard();
        assert_eq!(value(&shard, "counter").unwrap(), format!("{}", 100 * (restarts + 1)));
        assert!(shard.applied_next() > applied);
        assert!(shard.report().term > term, "a restarted leader does not go on in its old term");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_that_does_not_follow_the_last_one_in_its_own_term_is_skipped() {
    let node = TestNode::lead_alone(Settings::default()).await;
    let shard = node.shard();
    shard.execute(put("key", "sound"), soon()).await.unwrap();
    let fence = read_fence(shard.state()).unwrap();
    assert_eq!(fence, pb::StoredFence { term: shard.report().term, sequence: 1 });

    let skipped = [
        (fence.term, fence.sequence, "a repeat"),
        (fence.term, fence.sequence + 2, "its predecessor was rejected"),
        (fence.term - 1, fence.sequence + 1, "evaluated in an earlier term"),
        (fence.term + 1, 1, "evaluated in a term that has not come"),
    ];
    for (term, sequence, why) in skipped {
        assert_eq!(propose(&shard, term, sequence).await, ApplyOutcome::Skipped, "{why}");
        assert_eq!(value(&shard, "key").unwrap(), "sound", "{why}");
        assert_eq!(read_fence(shard.state()).unwrap(), fence, "{why}");
    }

    // One that follows, but that the executor knows nothing of: what the executor proposes next is void.
    assert_eq!(propose(&shard, fence.term, fence.sequence + 1).await, ApplyOutcome::Applied);
    assert_eq!(value(&shard, "key").unwrap(), "crafted");
    let void = shard.execute(put("key", "void"), soon()).await.unwrap_err();
    assert!(matches!(void.reason, Reason::NotLeader | Reason::NoLeader), "{void}");
    assert_eq!(value(&shard, "key").unwrap(), "crafted");
    // Then it begins again from what is applied.
    shard.execute(put("key", "sound again"), soon()).await.unwrap();
    assert_eq!(value(&shard, "key").unwrap(), "sound again");
}

/// Hands a proposal to Raft past the executor; it puts "crafted" under "key".
async fn propose(shard: &Shard, term: u64, sequence: u64) -> ApplyOutcome {
    let stored = pb::StoredValue { version: 1, value: "crafted".into(), ..Default::default() };
    let put = effect::put(pb::Table::Data, "key".into(), stored.encode_to_vec().into());
    let proposal = pb::Proposal { term, sequence, effects: vec![put], provenance: Vec::new() };
    let (sender, receiver) = oneshot::channel();
    let completion = Completion::new(move |result| drop(sender.send(result)));
    let write = shard.group().write(ProposalBytes(proposal.encode_to_vec().into())).responder(completion);
    write.await.unwrap();
    receiver.await.unwrap().unwrap().unwrap().data
}
