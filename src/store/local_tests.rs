//! The store of one proxy: terms, records, what is left of them after a crash.

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
