//! Leases, the lead and records in a real etcd: one leader at a time, nothing done by one that was deposed.

use std::time::Duration;

use preshard::store::{
    Ballot, FleetStore, Lease, ProxyRecord, RECORD_BYTES_MAX, RECORDS_MAX, Revision, StoreError, Term,
};

use crate::harness::{Etcd, Metronome, PATIENCE, wait_until};
use crate::{at, fleet_store, undisturbed};

const TTL: Duration = Duration::from_secs(3);

async fn campaign(store: &dyn FleetStore, id: &str) -> (Lease, Ballot) {
    let lease = store.grant(TTL).await.unwrap();
    let ballot = store.campaign(lease, id).await.unwrap();
    (lease, ballot)
}

async fn win(store: &dyn FleetStore, id: &str) -> (Lease, Term) {
    match campaign(store, id).await {
        (lease, Ballot::Won(term, _)) => (lease, term),
        (_, Ballot::Lost) => panic!("somebody else leads"),
    }
}

#[test]
fn one_leads_and_each_term_is_greater() {
    undisturbed(lead_in_turn);
}

async fn lead_in_turn() {
    let etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    let (lease, first) = win(store.as_ref(), "a").await;
    assert_eq!(campaign(store.as_ref(), "b").await.1, Ballot::Lost);
    let again = store.campaign(lease, "a").await.unwrap();
    assert!(
        matches!(again, Ballot::Won(term, _) if term == first),
        "asked twice, as after a lost answer: {again:?}"
    );
    store.revoke(lease).await.unwrap();
    store.revoke(lease).await.unwrap();
    let (_, second) = win(store.as_ref(), "b").await;
    assert!(second > first);
}

#[test]
fn a_deposed_leader_changes_nothing() {
    undisturbed(be_deposed);
}

async fn be_deposed() {
    let etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    let (lease, first) = win(store.as_ref(), "a").await;
    let written = store.save(&at(1), Revision::NONE, Some(first)).await.unwrap();
    let record = store
        .put_record("t", "{}", Revision::NONE, Some(first))
        .await
        .unwrap();
    store.revoke(lease).await.unwrap();
    // Nobody leads, then somebody else.
    for _ in 0..2 {
        let save = store.save(&at(2), written, Some(first)).await;
        assert!(matches!(save, Err(StoreError::Deposed { .. })), "{save:?}");
        let put = store.put_record("t", "[]", record, Some(first)).await;
        assert!(matches!(put, Err(StoreError::Deposed { .. })), "{put:?}");
        let delete = store.delete_record("t", record, Some(first)).await;
        assert!(matches!(delete, Err(StoreError::Deposed { .. })), "{delete:?}");
        campaign(store.as_ref(), "b").await;
    }
    assert_eq!(store.load().await.unwrap().topology.as_deref(), Some(&at(1)));
    assert_eq!(store.record("t").await.unwrap().unwrap().document, "{}");
}

#[test]
fn what_is_written_under_a_lease_goes_with_it() {
    undisturbed(let_a_lease_end);
}

async fn let_a_lease_end() {
    let etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    let lease = store.grant(TTL).await.unwrap();
    let mut record = ProxyRecord {
        id: "a".to_owned(),
        epoch: 1,
        ..ProxyRecord::default()
    };
    store.register(lease, &record).await.unwrap();
    record.epoch = 2;
    let written = store.register(lease, &record).await.unwrap();
    assert!(store.keep_alive(lease).await.unwrap());
    let snapshot = store.watch().next().await.unwrap();
    assert!(snapshot.revision >= written);
    assert_eq!(snapshot.proxies.get("a"), Some(&record));
    // No more signs of life.
    let mut watch = store.watch();
    while !watch.next().await.unwrap().proxies.is_empty() {}
    assert!(!store.keep_alive(lease).await.unwrap());
    let late = store.register(lease, &record).await;
    assert!(matches!(late, Err(StoreError::LeaseEnded { .. })), "{late:?}");
    let late = store.campaign(lease, "a").await;
    assert!(matches!(late, Err(StoreError::LeaseEnded { .. })), "{late:?}");
}

#[tokio::test]
async fn records_are_compared_counted_and_bounded() {
    let etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    assert_eq!(store.records().await.unwrap(), []);
    let first = store
        .put_record("m-1", r#"{"a":1}"#, Revision::NONE, None)
        .await
        .unwrap();
    let second = store.put_record("m-1", r#"{"a":2}"#, first, None).await.unwrap();
    let again = store.put_record("m-1", r#"{"a":2}"#, first, None).await.unwrap();
    assert_eq!(again, second, "asked twice, as after a lost answer");
    let stale = store.put_record("m-1", r#"{"a":3}"#, first, None).await;
    assert!(matches!(stale, Err(StoreError::Changed { .. })), "{stale:?}");
    let stale = store.delete_record("m-1", first, None).await;
    assert!(matches!(stale, Err(StoreError::Changed { .. })), "{stale:?}");
    store.delete_record("m-1", second, None).await.unwrap();
    store.delete_record("m-1", second, None).await.unwrap();
    assert_eq!(store.record("m-1").await.unwrap(), None);

    let largest = format!("{:width$}", "{}", width = RECORD_BYTES_MAX);
    for number in 0..RECORDS_MAX {
        store
            .put_record(&format!("r{number}"), &largest, Revision::NONE, None)
            .await
            .unwrap();
    }
    let full = store.put_record("more", "{}", Revision::NONE, None).await;
    assert!(matches!(full, Err(StoreError::Limit(_))), "{full:?}");
    // All of them, and the topology, come in one answer.
    store.save(&at(1), Revision::NONE, None).await.unwrap();
    let snapshot = store.watch().next().await.unwrap();
    assert_eq!(snapshot.records.len(), RECORDS_MAX);
    assert!(snapshot.stored.topology.is_some());
}

#[tokio::test]
async fn history_tells_whether_a_topology_was_there_before_another() {
    let etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    let first = store.save(&at(1), Revision::NONE, None).await.unwrap();
    let second = store.save(&at(2), first, None).await.unwrap();
    store.save(&at(3), second, None).await.unwrap();
    let mut other = at(2);
    other.nodes[0].name = "other".to_owned();
    assert_eq!(store.was_saved(&at(2), first).await.unwrap(), Some(true));
    assert_eq!(store.was_saved(&other, first).await.unwrap(), Some(false));
    assert_eq!(store.was_saved(&at(2), second).await.unwrap(), Some(false));
    etcd.compact(0);
    assert_eq!(store.was_saved(&at(3), second).await.unwrap(), Some(true));
    assert_eq!(
        store.was_saved(&at(2), first).await.unwrap(),
        None,
        "nobody can tell"
    );
}

#[test]
fn a_leader_that_dies_is_followed_within_five_seconds() {
    let etcd = Etcd::start(1);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = fleet_store(&[etcd.address(0)]);
    let (start, metronome) = (std::time::Instant::now(), Metronome::start());
    let (_, first) = runtime.block_on(win(store.as_ref(), "a"));
    wait_until("the lead is free", PATIENCE, || {
        let (_, ballot) = runtime.block_on(campaign(store.as_ref(), "b"));
        matches!(ballot, Ballot::Won(term, _) if term > first)
    });
    let took = start.elapsed();
    println!("free after {took:?}");
    assert!(took >= Duration::from_secs(2), "not before its lease was over");
    assert!(took < Duration::from_secs(5) + metronome.late());
}
