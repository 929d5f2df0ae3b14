//! The watch: whatever becomes of its connection and of etcd's history, no change stays hidden.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use preshard::ids::Epoch;
use preshard::store::{FleetStore, Revision, Snapshot, Watch};
use tokio::time::timeout;

use crate::harness::{Etcd, Metronome, PATIENCE};
use crate::{at, fleet_store, undisturbed};

async fn next(watch: &mut dyn Watch) -> Arc<Snapshot> {
    let news = timeout(PATIENCE, watch.next()).await;
    news.expect("news in time").expect("etcd answers")
}

fn epoch(snapshot: &Snapshot) -> Option<Epoch> {
    snapshot.stored.topology.as_ref().map(|topology| topology.epoch)
}

/// Until this epoch is told, however often etcd gives no answer before.
async fn until_epoch(watch: &mut dyn Watch, wanted: u64) -> Arc<Snapshot> {
    let start = Instant::now();
    loop {
        let snapshot = timeout(PATIENCE, watch.next()).await.expect("news in time");
        match snapshot {
            Ok(snapshot) if epoch(&snapshot) == Some(Epoch(wanted)) => return snapshot,
            Ok(_) | Err(_) => assert!(start.elapsed() < PATIENCE, "epoch {wanted} was never told"),
        }
    }
}

async fn save(store: &dyn FleetStore, epoch: u64) -> Revision {
    let stored = store.load().await.unwrap();
    store.save(&at(epoch), stored.revision, None).await.unwrap()
}

/// Between a store and etcd: passes everything on, or goes deaf, or closes.
struct Wire {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    open: Mutex<Vec<(TcpStream, Arc<AtomicBool>)>>,
    refuses: AtomicBool,
    accepted: AtomicUsize,
}

impl Wire {
    fn to(etcd: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            open: Mutex::default(),
            refuses: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
        });
        let accepting = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                accepting.accepted.fetch_add(1, Ordering::Relaxed);
                if accepting.refuses.load(Ordering::Relaxed) {
                    continue;
                }
                let deaf = Arc::new(AtomicBool::new(false));
                let server = TcpStream::connect(etcd).unwrap();
                let pair = [(&client, &server), (&server, &client)];
                for (from, to) in pair.map(|(from, to)| (from.try_clone().unwrap(), to.try_clone().unwrap()))
                {
                    let deaf = Arc::clone(&deaf);
                    std::thread::spawn(move || pass(from, to, &deaf));
                }
                accepting.open.lock().unwrap().push((client, deaf));
            }
        });
        Self { address, state }
    }

    /// What is connected now stays so, and nothing comes through any more.
    fn go_deaf(&self) {
        for (_, deaf) in self.state.open.lock().unwrap().iter() {
            deaf.store(true, Ordering::Relaxed);
        }
    }

    /// Closes what is connected, and whatever connects until `heal`.
    fn cut(&self) {
        self.state.refuses.store(true, Ordering::Relaxed);
        for (client, _) in self.state.open.lock().unwrap().drain(..) {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    fn heal(&self) {
        self.state.refuses.store(false, Ordering::Relaxed);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, deaf: &AtomicBool) {
    let mut bytes = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if !deaf.load(Ordering::Relaxed) && to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[test]
fn changes_are_told_at_once_and_only_once() {
    undisturbed(hear_changes);
}

async fn hear_changes() {
    let etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    let mut watch = store.watch();
    let empty = next(watch.as_mut()).await;
    assert_eq!(epoch(&empty), None);
    let mut slowest = Duration::ZERO;
    for number in 1..=20 {
        let written = save(store.as_ref(), number).await;
        let start = Instant::now();
        let news = next(watch.as_mut()).await;
        slowest = slowest.max(start.elapsed());
        assert_eq!(epoch(&news), Some(Epoch(number)));
        assert!(news.revision >= written);
    }
    println!("20 changes, the slowest was told {slowest:?} after its write was acknowledged");
    assert!(
        timeout(Duration::from_secs(3), watch.next()).await.is_err(),
        "nothing more has changed"
    );
    assert_eq!(watch.resyncs(), 0);
}

#[test]
fn a_connection_that_is_half_dead_hides_a_change_for_a_few_seconds_at_most() {
    undisturbed(hear_over_a_half_dead_connection);
}

async fn hear_over_a_half_dead_connection() {
    let etcd = Etcd::start(1);
    let direct = fleet_store(&[etcd.address(0)]);
    let wire = Wire::to(etcd.address(0));
    let store = fleet_store(&[wire.address]);
    let mut watch = store.watch();
    next(watch.as_mut()).await;
    save(direct.as_ref(), 1).await;
    until_epoch(watch.as_mut(), 1).await;
    wire.go_deaf();
    save(direct.as_ref(), 2).await;
    let (start, metronome) = (Instant::now(), Metronome::start());
    until_epoch(watch.as_mut(), 2).await;
    println!("found {:?} after it was written", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(10) + metronome.late());
    assert_eq!(watch.resyncs(), 1);
    // From then on it hears again.
    save(direct.as_ref(), 3).await;
    until_epoch(watch.as_mut(), 3).await;
    assert_eq!(watch.resyncs(), 1);
}

#[tokio::test]
async fn a_deletion_behind_a_half_dead_connection_is_found_as_well() {
    let etcd = Etcd::start(1);
    let direct = fleet_store(&[etcd.address(0)]);
    let wire = Wire::to(etcd.address(0));
    let store = fleet_store(&[wire.address]);
    let written = direct.put_record("a", "{}", Revision::NONE, None).await.unwrap();
    let mut watch = store.watch();
    assert_eq!(next(watch.as_mut()).await.records.len(), 1);
    // It listens: the next record is told.
    direct.put_record("b", "{}", Revision::NONE, None).await.unwrap();
    assert_eq!(next(watch.as_mut()).await.records.len(), 2);
    wire.go_deaf();
    direct.delete_record("a", written, None).await.unwrap();
    let news = next(watch.as_mut()).await;
    assert_eq!(news.records.keys().collect::<Vec<_>>(), ["b"]);
}

#[tokio::test]
async fn compaction_while_the_watch_is_interrupted_leads_to_a_resync() {
    let etcd = Etcd::start(1);
    let direct = fleet_store(&[etcd.address(0)]);
    let wire = Wire::to(etcd.address(0));
    let store = fleet_store(&[wire.address]);
    let mut watch = store.watch();
    next(watch.as_mut()).await;
    save(direct.as_ref(), 1).await;
    until_epoch(watch.as_mut(), 1).await;
    wire.cut();
    timeout(PATIENCE, watch.next())
        .await
        .expect("in time")
        .expect_err("it is cut off");
    for number in 2..=5 {
        save(direct.as_ref(), number).await;
    }
    etcd.compact(0);
    wire.heal();
    let news = until_epoch(watch.as_mut(), 5).await;
    assert_eq!(news.stored.topology.as_deref(), Some(&at(5)));
    assert!(watch.resyncs() >= 1);
    save(direct.as_ref(), 6).await;
    until_epoch(watch.as_mut(), 6).await;
}

#[tokio::test]
async fn a_watch_is_not_tied_to_a_member_that_dies_or_hangs() {
    let mut etcd = Etcd::start(3);
    let all = [0, 1, 2].map(|member| etcd.address(member));
    let store = fleet_store(&all);
    let writer = fleet_store(&all[1..]);
    let mut watch = store.watch();
    next(watch.as_mut()).await;
    save(writer.as_ref(), 1).await;
    until_epoch(watch.as_mut(), 1).await;
    etcd.freeze(0);
    retry_save(writer.as_ref(), 2).await;
    until_epoch(watch.as_mut(), 2).await;
    etcd.thaw(0);
    etcd.kill(1);
    let writer = fleet_store(&all[2..]);
    retry_save(writer.as_ref(), 3).await;
    until_epoch(watch.as_mut(), 3).await;
}

/// While etcd elects a leader it takes no writes.
async fn retry_save(store: &dyn FleetStore, epoch: u64) {
    let start = Instant::now();
    loop {
        let stored = store.load().await;
        if let Ok(stored) = stored
            && store.save(&at(epoch), stored.revision, None).await.is_ok()
        {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "etcd takes no writes");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_etcd_that_was_restored_from_an_old_backup_is_read_anew() {
    let mut etcd = Etcd::start(1);
    let store = fleet_store(&[etcd.address(0)]);
    let mut watch = store.watch();
    next(watch.as_mut()).await;
    for number in 1..=5 {
        save(store.as_ref(), number).await;
    }
    until_epoch(watch.as_mut(), 5).await;
    etcd.kill(0);
    etcd.forget(0);
    etcd.start_member(0);
    etcd.wait();
    save(store.as_ref(), 3).await;
    until_epoch(watch.as_mut(), 3).await;
}
