//! The file store against crashes, second proxies, damage and missing rights.

use super::*;
use crate::topology::{CodecError, Node};

/// A folder of its own, removed afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("preshard-store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> PathBuf {
        self.0.join("topology.json")
    }

    fn store(&self) -> FileStore {
        FileStore::open(&self.path()).unwrap()
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
    topology.epoch = Epoch(epoch);
    topology
}

#[test]
fn what_is_saved_is_loaded_and_the_version_before_is_kept() {
    let folder = Folder::new("saved");
    let mut store = folder.store();
    assert_eq!(store.load().unwrap(), None);
    store.save(&version(1)).unwrap();
    store.save(&version(2)).unwrap();
    assert_eq!(store.load().unwrap(), Some(version(2)));
    assert_eq!(
        FileStore::peek(&beside(&folder.path(), ".1")).unwrap(),
        Some(version(1))
    );
    let bytes = fs::read(folder.path()).unwrap();
    drop(store);
    assert_eq!(folder.store().load().unwrap(), Some(version(2)));
    assert_eq!(fs::read(folder.path()).unwrap(), bytes, "loading changes nothing");
}

#[test]
fn a_second_proxy_gets_one_clear_error() {
    let folder = Folder::new("locked");
    let first = folder.store();
    let error = FileStore::open(&folder.path()).unwrap_err().to_string();
    let expected = format!(
        "the topology file {} is in use by another preshard (process {}): a file store serves one proxy; \
         stop the other one, or give this one a [topology] store of its own",
        folder.path().display(),
        std::process::id()
    );
    assert_eq!(error, expected);
    drop(first);
    assert!(
        FileStore::open(&folder.path()).is_ok(),
        "the lock ends with its holder"
    );
}

#[test]
fn lower_and_equal_epochs_and_other_clusters_are_refused() {
    let folder = Folder::new("stale");
    folder.store().save(&version(5)).unwrap();
    let mut store = folder.store();
    for epoch in [4, 5] {
        assert!(matches!(
            store.save(&version(epoch)),
            Err(StoreError::Stale { stored: Epoch(5), .. })
        ));
    }
    let mut other = version(6);
    other.cluster_id = "c2".into();
    assert!(matches!(store.save(&other), Err(StoreError::OtherCluster { .. })));
    let mut broken = version(6);
    broken.placements.pop();
    assert!(matches!(store.save(&broken), Err(StoreError::Invalid(_))));
    assert_eq!(store.load().unwrap(), Some(version(5)));
}

#[test]
fn a_crash_at_any_step_leaves_one_whole_version() {
    for existing in [false, true] {
        for stop in [Step::WriteNew, Step::KeepPrevious, Step::Rename, Step::SyncFolder] {
            let folder = Folder::new(&format!("crash-{existing}-{stop:?}"));
            let old = existing.then(|| version(2));
            if existing {
                folder.store().save(&version(1)).unwrap();
                folder.store().save(&version(2)).unwrap();
            }
            let half = beside(&folder.path(), ".tmp");
            let mut crash = |step| {
                if step != stop {
                    return Ok(());
                }
                if step == Step::WriteNew {
                    fs::write(&half, &version(3).encode().as_bytes()[..100])?;
                }
                Err(io::Error::other("crash"))
            };
            let error = folder.store().save_with(&version(3), &mut crash).unwrap_err();

            let mut store = folder.store();
            let found = store.load().unwrap();
            if stop == Step::SyncFolder {
                assert!(matches!(error, StoreError::Unconfirmed { .. }));
                assert_eq!(found, Some(version(3)));
            } else {
                assert!(matches!(error, StoreError::Io { .. }));
                assert_eq!(found, old, "{stop:?}");
            }
            store.save(&version(4)).unwrap();
            assert_eq!(
                store.load().unwrap(),
                Some(version(4)),
                "what a crash left behind is in nobody's way"
            );
        }
    }
}

#[test]
fn a_failed_save_can_be_tried_again() {
    let folder = Folder::new("again");
    let mut store = folder.store();
    store.save(&version(1)).unwrap();
    let mut full = |step| {
        if step == Step::Rename {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    };
    let error = store.save_with(&version(2), &mut full).unwrap_err();
    assert!(error.to_string().ends_with("; free some space"), "{error}");
    store.save(&version(2)).unwrap();
    assert_eq!(store.load().unwrap(), Some(version(2)));
}

#[test]
fn damage_is_refused_with_the_way_back() {
    let folder = Folder::new("damage");
    let mut store = folder.store();
    store.save(&version(1)).unwrap();
    store.save(&version(2)).unwrap();
    let text = fs::read_to_string(folder.path()).unwrap();
    fs::write(folder.path(), text.replace("7001", "7002")).unwrap();
    let error = store.load().unwrap_err();
    assert!(matches!(&error, StoreError::Unreadable { error, .. } if **error == CodecError::Checksum));
    let path = folder.path();
    let remedy = format!(
        "is epoch 1: if no later change matters, restore it with: cp {0}.1 {0}",
        path.display()
    );
    assert!(error.to_string().ends_with(&remedy), "{error}");
    assert!(
        folder_unchanged_by_save(&mut store, &path),
        "a damaged file is never written over"
    );

    fs::write(&path, "").unwrap();
    assert!(
        matches!(store.load(), Err(StoreError::Unreadable { .. })),
        "empty is not new"
    );
    fs::copy(beside(&path, ".1"), &path).unwrap();
    assert_eq!(store.load().unwrap(), Some(version(1)), "the remedy works");
}

fn folder_unchanged_by_save(store: &mut FileStore, path: &Path) -> bool {
    let before = fs::read(path).unwrap();
    store.stored = None;
    store.save(&version(9)).is_err() && fs::read(path).unwrap() == before
}

#[test]
fn a_newer_format_asks_for_the_newer_version_not_for_an_older_map() {
    let folder = Folder::new("newer");
    let mut store = folder.store();
    store.save(&version(1)).unwrap();
    store.save(&version(2)).unwrap();
    let text = fs::read_to_string(folder.path()).unwrap();
    fs::write(folder.path(), text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let error = store.load().unwrap_err().to_string();
    assert!(
        error.ends_with("it was written by a newer version, use that one"),
        "{error}"
    );
}

#[test]
fn a_vanished_file_is_not_a_new_store() {
    let folder = Folder::new("vanished");
    let mut store = folder.store();
    store.save(&version(1)).unwrap();
    store.save(&version(2)).unwrap();
    fs::remove_file(folder.path()).unwrap();
    let error = store.load().unwrap_err();
    assert!(matches!(error, StoreError::Vanished { .. }));
    assert!(error.to_string().contains("this is no new store"), "{error}");
}

#[test]
fn an_unusable_place_says_what_to_do() {
    let folder = Folder::new("place");
    let error = FileStore::open(&folder.0.join("no/such/topology.json"))
        .unwrap_err()
        .to_string();
    assert!(
        error.ends_with("; create its folder, or correct [topology] store"),
        "{error}"
    );
    let denied = StoreError::Io {
        doing: "read",
        path: folder.path(),
        error: io::ErrorKind::PermissionDenied.into(),
    };
    assert!(
        denied
            .to_string()
            .contains("preshard's user must be able to read and write"),
        "{denied}"
    );
    fs::create_dir(folder.path()).unwrap();
    assert!(
        matches!(FileStore::peek(&folder.path()), Err(StoreError::Io { .. })),
        "a folder is no file"
    );
}

#[test]
fn a_link_to_the_file_stays_a_link() {
    let folder = Folder::new("link");
    folder.store().save(&version(1)).unwrap();
    let link = folder.0.join("link.json");
    std::os::unix::fs::symlink(folder.path(), &link).unwrap();
    let mut store = FileStore::open(&link).unwrap();
    store.save(&version(2)).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(FileStore::peek(&folder.path()).unwrap(), Some(version(2)));
}

/// The child of the test below: saves, and dies at a step by its own hand.
#[test]
fn child_that_is_killed_while_it_saves() {
    let Ok(order) = std::env::var("PRESHARD_TEST_KILL") else {
        return;
    };
    let (step, path) = order.split_once(' ').unwrap();
    let mut store = FileStore::open(Path::new(path)).unwrap();
    let epoch = store.load().unwrap().map_or(1, |stored| stored.epoch.0 + 1);
    let mut die = |at| {
        if format!("{at:?}") == step {
            let own = std::process::id().to_string();
            let _ = std::process::Command::new("kill").args(["-9", &own]).status();
            unreachable!("dead by now");
        }
        Ok(())
    };
    store.save_with(&version(epoch), &mut die).unwrap();
}

#[test]
fn a_process_killed_at_any_step_leaves_one_whole_version_and_no_lock() {
    for existing in [0, 1, 3] {
        for stop in [Step::WriteNew, Step::KeepPrevious, Step::Rename, Step::SyncFolder] {
            let folder = Folder::new(&format!("killed-{existing}-{stop:?}"));
            for epoch in 1..=existing {
                folder.store().save(&version(epoch)).unwrap();
            }
            let child = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "store::file::tests::child_that_is_killed_while_it_saves",
                ])
                .env(
                    "PRESHARD_TEST_KILL",
                    format!("{stop:?} {}", folder.path().display()),
                )
                .output()
                .unwrap();
            assert!(!child.status.success(), "{child:?}");
            let before = (existing > 0).then(|| version(existing));
            let found = folder.store().load().unwrap();
            let is_done = stop == Step::SyncFolder;
            assert_eq!(
                found,
                if is_done {
                    Some(version(existing + 1))
                } else {
                    before
                },
                "{existing} {stop:?}"
            );
            folder.store().save(&version(9)).unwrap();
        }
    }
}
