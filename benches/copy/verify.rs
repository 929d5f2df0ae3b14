//! What comparing source and target costs: seconds, processor time, and what others notice of it. One byte that differs in all
//! of it must be found.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use preshard::migration::{Checked, Copy, Sample};
use preshard::resp::write_request;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::{Args, Node, Result, busy, peak_memory, probe, show, write_on};

/// Pings and writes of others, while something is done.
fn beside<T>(args: &Args, nodes: [&Node; 2], what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let probes = nodes.map(|node| {
        let (stop, socket) = (Arc::clone(&stop), node.socket());
        std::thread::spawn(move || probe(&socket, &stop))
    });
    let writer = (args.writes > 0).then(|| {
        let (stop, socket, writes) = (Arc::clone(&stop), nodes[0].socket(), args.writes);
        std::thread::spawn(move || write_on(&socket, writes, &stop))
    });
    let done = work();
    stop.store(true, Ordering::Relaxed);
    if let Some(writer) = writer {
        writer.join().map_err(|_| "the writer has failed")??;
    }
    for (side, probe) in ["source", "target"].iter().zip(probes) {
        let all = probe.join().map_err(|_| "a probe has failed")??;
        println!("  {what}: PING of the {side}: {}", show(&all));
    }
    done
}

/// Compares all of it twice, the second time with one byte changed. `key` is one that nobody writes to.
pub(crate) fn verify(
    args: &Args,
    nodes: [&Node; 2],
    runtime: &Runtime,
    copy: &Copy,
    key: &str,
) -> Result<()> {
    beside(args, nodes, "without", || {
        std::thread::sleep(Duration::from_secs(3));
        Ok(())
    })?;
    let [source, target] = nodes;
    let compared = || -> Result<Checked> {
        let before = (busy("/proc/self/stat"), source.busy(), target.busy());
        let (seen, _seeing) = watch::channel(Checked::default());
        let begin = Instant::now();
        let checked = runtime.block_on(copy.verify(Sample::All, &seen))?;
        let (took, keys) = (begin.elapsed(), checked.keys as f64);
        println!(
            "compared {} keys in {took:?}: {:.0} keys/s; CPU per key: here {:.2} us, source {:.2} us, target {:.2} us; {} differ; peak memory {} MB",
            checked.keys,
            keys / took.as_secs_f64(),
            (busy("/proc/self/stat") - before.0) * 1e6 / keys,
            (source.busy() - before.1) * 1e6 / keys,
            (target.busy() - before.2) * 1e6 / keys,
            checked.mismatches,
            peak_memory() / 1024,
        );
        Ok(checked)
    };
    let checked = beside(args, nodes, "comparing", compared)?;
    assert_eq!(checked.mismatches, 0, "{:?}", checked.found);
    let mut frame = Vec::new();
    write_request(&mut frame, &[&b"SETRANGE"[..], key.as_bytes(), b"7", b"!"]);
    target.fill(13, &frame, 1)?;
    let checked = compared()?;
    let named = checked.found.iter().filter_map(|found| found.key.as_deref());
    assert_eq!(named.collect::<Vec<_>>(), [key.as_bytes()]);
    println!("  the one byte that was changed was found, in {key}");
    Ok(())
}
