//! What clients notice of a copy that is throttled: their waits while it runs, beside as long a time without it, in turns.

use std::time::{Duration, Instant};

use crate::load::{Ballast, Kind, Load, Sample, Spec, Verdict};
use crate::report::Figures;
use crate::rig::{MOVING, Rig};
use crate::{Args, Result, Store, process};

/// Clients, half of them on shards that are copied, and how often each writes.
const CLIENTS: u32 = 20;
const PACE: Duration = Duration::from_millis(4);
/// The longest that a copy may take.
const COPY_MAX: Duration = Duration::from_secs(120);

/// Waits in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    pub(crate) copying: Figures,
    pub(crate) without: Figures,
    pub(crate) verdict: Verdict,
}

impl Copies {
    /// How many times longer the waits are at p99.
    pub(crate) fn ratio(&self) -> f64 {
        self.copying.p99 / self.without.p99.max(0.001)
    }
}

fn waits(samples: &[Sample]) -> impl Iterator<Item = f64> {
    samples
        .iter()
        .map(|sample| sample.answered.saturating_sub(sample.due).as_secs_f64() * 1000.0)
}

/// Copies as often as it is told, and takes each back before its cutover.
pub(crate) fn copies(args: &Args) -> Result<Copies> {
    let mut rig = Rig::start(&args.preshard, Store::File, 1, 2)?;
    Ballast::fill(rig.proxy_ports()[0], args.copy_keys)?;
    let client = |number| Spec {
        kind: if number % 2 == 0 {
            Kind::Single
        } else {
            Kind::Bystander
        },
        pace: PACE,
    };
    let specs: Vec<Spec> = (0..CLIENTS).map(client).collect();
    let load = Load::start(rig.proxy_ports(), &specs)?;
    load.quiet(Duration::from_secs(1));
    let (mut copying, mut without) = (Vec::new(), Vec::new());
    for round in 0..args.copies {
        load.take();
        let begun = Instant::now();
        let order = format!("PRESHARD SHARD MOVE {MOVING} TO node-2 MANUAL RATE {}", args.rate);
        let id = rig.ask(&order)?;
        until(&rig, &id, "ready")?;
        copying.extend(waits(&load.take()));
        let length = begun.elapsed();
        let said = rig.ask(&format!("PRESHARD TASK CANCEL {id}"))?;
        if said != "OK" {
            return Err(format!("a copy cannot be cancelled: {said}").into());
        }
        until(&rig, &id, "cancelled")?;
        without.extend(waits(&load.quiet(length)));
        eprintln!(
            "copy {} of {} took {:.1} s",
            round + 1,
            args.copies,
            length.as_secs_f64()
        );
    }
    let port = rig.settle()?;
    Ok(Copies {
        copying: Figures::of(copying),
        without: Figures::of(without),
        verdict: load.stop(port)?,
    })
}

fn until(rig: &Rig, id: &str, wanted: &str) -> Result<()> {
    let until = Instant::now() + COPY_MAX;
    loop {
        let row = rig.fields(&format!("PRESHARD TASK STATUS {id}"))?;
        let state = row.get("state").cloned().unwrap_or_default();
        if state == wanted {
            return Ok(());
        }
        if state == "failed" || Instant::now() > until {
            return Err(format!("a copy is {state}, not {wanted}: {row:?}").into());
        }
        (0..10).for_each(|_| process::pause());
    }
}
