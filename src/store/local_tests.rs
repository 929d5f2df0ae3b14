//! The store of one proxy: terms, records, what is left of them after a crash.

use std::future::poll_fn;
use std::sync::mpsc;
use std::task::Poll;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::time::advance;

use super::super::disk::{ANSWER_MAX, QUEUE_MAX};
use super::*;
use crate::store::TopologyStore as _;
use crate::topology::Node;

/// A folder of its own, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("preshard-local-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> PathBuf {
        self.0.join("topology.json")
    }

    fn open(&self) -> Arc<dyn FleetStore> {
        Box::new(FileStore::open(&self.path()).unwrap())
            .into_fleet()
            .unwrap()
    }

    fn local(&self) -> LocalFleet {
        LocalFleet::open(FileStore::open(&self.path()).unwrap()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn version(epoch: u64) -> Topology {
    let node = Node {
        name: "redis-1".into(),
        address: "127.0.0.1:7001".parse().unwrap(),
    };
    let mut topology = Topology::seed("c1".into(), 8, 4, vec![node]).unwrap();
    topology.epoch = crate::ids::Epoch(epoch);
    topology
}

async fn term(store: &dyn FleetStore) -> Term {
    let lease = store.grant(Duration::from_secs(3)).await.unwrap();
    match store.campaign(lease, "a").await.unwrap() {
        Ballot::Won(term, _) => term,
        Ballot::Lost => panic!("nobody else is there"),
    }
}

#[tokio::test]
async fn each_start_has_a_greater_term() {
    let folder = Folder::new("term");
    for start in 1..=3 {
        assert_eq!(term(folder.open().as_ref()).await, Term(start));
    }
    let counter = folder.0.join("topology.json.term");
    fs::write(&counter, "x").unwrap();
    let store = Box::new(FileStore::open(&folder.path()).unwrap());
    let error = store.into_fleet().unwrap_err().to_string();
    assert!(error.contains("it is no number"), "{error}");
    fs::write(&counter, "1795620797\n").unwrap();
    assert_eq!(term(folder.open().as_ref()).await, Term(1_795_620_798));
}

#[tokio::test]
async fn a_save_compares_revision_and_term() {
    let folder = Folder::new("save");
    let store = folder.open();
    let none = store.load().await.unwrap();
    assert_eq!(none, Stored::default());
    let first = store.save(&version(1), Revision::NONE, None).await.unwrap();
    let changed = store.save(&version(2), Revision::NONE, None).await;
    assert!(matches!(changed, Err(StoreError::Changed { .. })), "{changed:?}");
    let deposed = store.save(&version(2), first, Some(Term(2))).await;
    assert!(matches!(deposed, Err(StoreError::Deposed { .. })), "{deposed:?}");
    let second = store.save(&version(2), first, Some(Term(1))).await.unwrap();
    assert!(second > first);
    let loaded = store.load().await.unwrap();
    assert_eq!(
        (loaded.topology.as_deref(), loaded.revision),
        (Some(&version(2)), second)
    );
    assert_eq!(store.was_saved(&version(2), first).await.unwrap(), Some(true));
    drop(store);
    assert_eq!(
        folder.open().load().await.unwrap().topology.as_deref(),
        Some(&version(2))
    );
}

#[tokio::test]
async fn records_survive_a_restart_and_are_compared() {
    let folder = Folder::new("records");
    let store = folder.open();
    assert_eq!(store.records().await.unwrap(), []);
    let first = store
        .put_record("move-1", r#"{"state":"planned"}"#, Revision::NONE, None)
        .await
        .unwrap();
    let again = store.put_record("move-1", "{}", Revision::NONE, None).await;
    assert!(matches!(again, Err(StoreError::Changed { .. })), "{again:?}");
    let second = store
        .put_record("move-1", "{}", first, Some(Term(1)))
        .await
        .unwrap();
    store
        .put_record("move-2", "{}", Revision::NONE, None)
        .await
        .unwrap();
    let deposed = store.put_record("move-1", "[]", second, Some(Term(9))).await;
    assert!(matches!(deposed, Err(StoreError::Deposed { .. })), "{deposed:?}");
    for bad in ["../x", "", "a.b"] {
        let refused = store.put_record(bad, "{}", Revision::NONE, None).await;
        assert!(matches!(refused, Err(StoreError::Limit(_))), "{refused:?}");
    }
    drop(store);

    // What a crash has left behind is in nobody's way.
    fs::write(folder.0.join("topology.json.tasks/move-1.json.tmp"), "{").unwrap();
    let store = folder.open();
    let names: Vec<String> = store
        .records()
        .await
        .unwrap()
        .into_iter()
        .map(|record| record.id)
        .collect();
    assert_eq!(names, ["move-1", "move-2"]);
    let record = store.record("move-1").await.unwrap().unwrap();
    assert_eq!(record.document, "{}");
    store
        .delete_record("move-1", record.revision, None)
        .await
        .unwrap();
    store
        .delete_record("move-1", record.revision, None)
        .await
        .unwrap();
    assert_eq!(store.record("move-1").await.unwrap(), None);
    drop(store);
    assert_eq!(folder.open().records().await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_number_and_the_size_of_records_are_bounded() {
    let folder = Folder::new("bounds");
    let store = folder.open();
    for number in 0..RECORDS_MAX {
        let id = format!("r{number}");
        store.put_record(&id, "{}", Revision::NONE, None).await.unwrap();
    }
    let full = store
        .put_record("more", "{}", Revision::NONE, None)
        .await
        .unwrap_err();
    assert!(full.to_string().contains("256 are the limit"), "{full}");
    let large = "x".repeat(RECORD_BYTES_MAX + 1);
    let refused = store.put_record("r0", &large, FIRST, None).await;
    assert!(matches!(refused, Err(StoreError::Limit(_))), "{refused:?}");
    // Somebody's own file of that name.
    drop(store);
    fs::write(folder.0.join("topology.json.tasks/r0.json"), large).unwrap();
    let store = Box::new(FileStore::open(&folder.path()).unwrap());
    assert!(store.into_fleet().is_err());
}

#[tokio::test]
async fn the_watch_tells_what_this_process_did() {
    let folder = Folder::new("watch");
    let store = folder.open();
    let mut watch = store.watch();
    let first = watch.next().await.unwrap();
    assert!(first.stored.topology.is_none() && first.leader.is_none());
    let written = store.save(&version(1), Revision::NONE, None).await.unwrap();
    let now = watch.next().await.unwrap();
    assert_eq!(now.stored.topology.as_deref(), Some(&version(1)));
    assert!(now.revision >= written);
    term(store.as_ref()).await;
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let record = ProxyRecord {
        id: "a".to_owned(),
        ..ProxyRecord::default()
    };
    store.register(lease, &record).await.unwrap();
    let now = watch.next().await.unwrap();
    assert_eq!(now.leader.as_ref().map(|leader| leader.id.as_str()), Some("a"));
    assert_eq!(now.proxies.get("a"), Some(&record));
}

#[tokio::test]
async fn a_damaged_file_is_put_aside_by_a_restore_and_the_version_before_it_is_kept() {
    let folder = Folder::new("restore");
    let mut file = FileStore::open(&folder.path()).unwrap();
    file.save(&version(1)).unwrap();
    file.save(&version(2)).unwrap();
    fs::write(folder.path(), "{").unwrap();
    restore(&mut file, &version(3)).unwrap();
    assert_eq!(file.load().unwrap(), Some(version(3)));
    assert_eq!(
        FileStore::peek(&beside(&folder.path(), ".1")).unwrap(),
        Some(version(1))
    );
    assert_eq!(fs::read(beside(&folder.path(), ".damaged")).unwrap(), b"{");
    // Over what can be read, only what may follow it.
    assert!(matches!(
        restore(&mut file, &version(3)),
        Err(StoreError::Stale { .. })
    ));
    fs::remove_file(folder.path()).unwrap();
    restore(&mut file, &version(4)).unwrap();
    assert_eq!(file.load().unwrap(), Some(version(4)));
}

/// Whether an answer has not come, after looking once.
async fn is_pending<T>(answer: &mut Answer<'_, T>) -> bool {
    poll_fn(|context| Poll::Ready(answer.as_mut().poll(context).is_pending())).await
}

/// A disk that stands still until it is told to go on; and when it has begun to.
fn stand_still(fleet: &LocalFleet) -> (Answer<'_, ()>, mpsc::Sender<()>, oneshot::Receiver<()>) {
    let (go, wait) = mpsc::channel();
    let (at_it, stands) = oneshot::channel();
    let stuck = fleet.disk.ask(move |_| {
        at_it.send(()).unwrap();
        wait.recv().unwrap();
        Ok(())
    });
    (Box::pin(stuck), go, stands)
}

/// All on one thread: if the disk held it, nothing would ever go on.
#[tokio::test]
async fn a_disk_that_stands_still_holds_up_nobody_and_what_is_asked_meanwhile_keeps_its_order() {
    let folder = Folder::new("still");
    let fleet = folder.local();
    let (stuck, go, stands) = stand_still(&fleet);
    let meanwhile = async {
        stands.await.unwrap();
        let mut watch = fleet.watch();
        watch.next().await.unwrap();
        let lease = fleet.grant(Duration::from_secs(5)).await.unwrap();
        fleet.register(lease, &ProxyRecord::default()).await.unwrap();
        assert_eq!(term(&fleet).await, Term(1));
        assert!(fleet.keep_alive(lease).await.unwrap());
        assert!(watch.next().await.unwrap().leader.is_some());

        let one = version(1);
        let mut saving = fleet.save(&one, Revision::NONE, None);
        let mut loading = fleet.load();
        let mut putting = fleet.put_record("a", "{}", Revision::NONE, None);
        let mut reading = fleet.record("a");
        assert!(is_pending(&mut saving).await && is_pending(&mut loading).await);
        assert!(is_pending(&mut putting).await && is_pending(&mut reading).await);
        // Who leaves before it is his turn has asked for nothing.
        let mut left = fleet.put_record("b", "{}", Revision::NONE, None);
        assert!(is_pending(&mut left).await);
        drop(left);
        go.send(()).unwrap();
        // The last one first: each has seen what was asked before it.
        assert!(reading.await.unwrap().is_some());
        putting.await.unwrap();
        assert_eq!(loading.await.unwrap().topology.as_deref(), Some(&version(1)));
        saving.await.unwrap();
        assert_eq!(fleet.records().await.unwrap().len(), 1);
    };
    let (stuck, ()) = tokio::join!(stuck, meanwhile);
    stuck.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_says_so_and_what_came_of_it_is_found() {
    let folder = Folder::new("silent");
    let fleet = folder.local();
    let mut watch = fleet.watch();
    watch.next().await.unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let (at_it, stands) = oneshot::channel();
    let known = Arc::clone(&fleet.known);
    let stuck = fleet.disk.ask(move |file| {
        at_it.send(()).unwrap();
        wait.recv().unwrap();
        known.save(file, version(1), Revision::NONE, None)
    });
    let meanwhile = async {
        stands.await.unwrap();
        advance(ANSWER_MAX).await;
        let told = watch.next().await.unwrap_err();
        assert!(told.is_unanswered());
        assert!(told.to_string().ends_with("check the disk"), "{told}");
        // Whoever asks next waits as long, and does not take the past for the present.
        let mut loading = fleet.load();
        assert!(is_pending(&mut loading).await);
        advance(ANSWER_MAX).await;
        assert!(loading.await.unwrap_err().is_unanswered());
        assert!(watch.next().await.is_err());
        go.send(()).unwrap();
    };
    let (stuck, ()) = tokio::join!(stuck, meanwhile);
    assert!(stuck.unwrap_err().is_unanswered());

    // The same once more, as `Fleet` does it.
    let again = fleet.save(&version(1), Revision::NONE, None).await;
    assert!(matches!(again, Err(StoreError::Changed { .. })), "{again:?}");
    let was_saved = fleet.was_saved(&version(1), Revision::NONE).await;
    assert_eq!(was_saved.unwrap(), Some(true));
    let now = watch.next().await.unwrap();
    assert_eq!(now.stored.topology.as_deref(), Some(&version(1)));
}

#[tokio::test]
async fn nobody_else_gets_the_file_before_a_write_has_ended() {
    let folder = Folder::new("held");
    let fleet = folder.local();
    let (go, wait) = mpsc::channel::<()>();
    let (at_it, stands) = oneshot::channel();
    let mut stuck: Answer<'_, ()> = Box::pin(fleet.disk.ask(move |file| {
        at_it.send(()).unwrap();
        wait.recv().unwrap();
        file.save(&version(1))
    }));
    assert!(is_pending(&mut stuck).await);
    stands.await.unwrap();
    drop(stuck);
    drop(fleet);
    let locked = FileStore::open(&folder.path());
    assert!(matches!(locked, Err(StoreError::Locked { .. })), "{locked:?}");
    go.send(()).unwrap();
    let file = loop {
        match FileStore::open(&folder.path()) {
            Err(StoreError::Locked { .. }) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    assert_eq!(FileStore::peek(file.path()).unwrap(), Some(version(1)));
}

#[tokio::test]
async fn no_more_waits_for_a_disk_than_its_queue_holds() {
    let folder = Folder::new("full");
    let fleet = folder.local();
    let (stuck, go, stands) = stand_still(&fleet);
    let meanwhile = async {
        stands.await.unwrap();
        let mut waiting: Vec<_> = (0..QUEUE_MAX).map(|_| fleet.load()).collect();
        for answer in &mut waiting {
            assert!(is_pending(answer).await);
        }
        assert!(fleet.load().await.unwrap_err().is_unanswered());
        go.send(()).unwrap();
        for answer in waiting {
            answer.await.unwrap();
        }
        fleet.load().await.unwrap();
    };
    let (stuck, ()) = tokio::join!(stuck, meanwhile);
    stuck.unwrap();
}

#[tokio::test]
async fn what_panics_has_no_answer_and_the_rest_goes_on() {
    let folder = Folder::new("panic");
    let fleet = folder.local();
    let broken = fleet
        .disk
        .ask::<()>(|_| panic!("this panic is a part of the test"));
    assert!(broken.await.unwrap_err().is_unanswered());
    fleet.save(&version(1), Revision::NONE, None).await.unwrap();
}

/// A commit as a cutover makes it, staged before, with and without a turn at the disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures: cargo test --release --lib what_a_commit_takes -- --ignored --nocapture"]
async fn what_a_commit_takes() {
    const COMMITS: usize = 500;
    let (by_itself, in_turn) = (Folder::new("by-itself"), Folder::new("in-turn"));
    let mut file = FileStore::open(&by_itself.path()).unwrap();
    let fleet = in_turn.local();
    let (mut revision, mut took) = (Revision::NONE, [Vec::new(), Vec::new()]);
    for epoch in 1..=COMMITS as u64 {
        let next = version(epoch);
        file.stage(&next).unwrap();
        let begun = Instant::now();
        file.save(&next).unwrap();
        took[0].push(begun.elapsed());
        fleet.stage(&next).await.unwrap();
        let begun = Instant::now();
        revision = fleet.save(&next, revision, None).await.unwrap();
        took[1].push(begun.elapsed());
    }
    took.iter_mut().for_each(|all| all.sort_unstable());
    for (how, all) in ["by itself", "in turn"].iter().zip(&took) {
        let of = |share: usize| all[(all.len() * share / 100).min(all.len() - 1)];
        println!("{how}: p50 {:?} p90 {:?} p99 {:?}", of(50), of(90), of(99));
    }
    assert!(took[1][COMMITS / 2] < took[0][COMMITS / 2] + Duration::from_millis(1));
}
