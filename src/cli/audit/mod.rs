//! `preshard audit`: a pass-through in front of one plain Redis that tells what would not run behind preshard.
//!
//! ```text
//!  client ══bytes═▶ pass ══the same bytes═▶ Redis      and after they are on their way:  Audit::read
//!         ◀═bytes══      ◀═the same bytes══            SIGUSR1, --every, the end:        the report, on standard output
//! ```

mod pass;

use std::cell::{Cell, RefCell};
use std::io::{self, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::audit::{Audit, AuditOptions, Circumstances};
use crate::config::EXIT_STATUS;
use crate::config::units::parse_duration;
use crate::proxy::Listener;
use crate::topology::Address;

/// An address or the system refuses.
const SYSTEM: u8 = 3;
/// Out of file descriptors, only time helps.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(super) struct AuditArgs {
    #[arg(
        long,
        value_name = "ADDRESS",
        help = "Where the application connects: host:port, [v6]:port or unix:/path"
    )]
    listen: Address,
    /// The Redis or Valkey server that everything is passed on to
    #[arg(long, value_name = "ADDRESS")]
    node: Address,
    /// Shards of database 0 to assume
    #[arg(long, value_name = "N", default_value_t = 1024)]
    shards: u16,
    /// Pinned databases to assume
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u16).range(1..))]
    pinned: u16,
    /// End by itself after this long, such as 90s, 10m or 24h
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    longest: Option<Duration>,
    /// Print a report each time that this long has passed
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    every: Option<Duration>,
    /// Print reports as JSON, one on each line
    #[arg(long)]
    json: bool,
    /// Leave keys out of the reports; their shards stay
    #[arg(long)]
    hide_keys: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a whole number and ms, s, m or h, such as 90s".to_owned())
}

/// What the clients' tasks share; all of them run on one thread.
struct Scene {
    node: Address,
    audit: RefCell<Audit>,
    unconnected: Cell<u64>,
}

pub(super) fn audit(args: &AuditArgs) -> u8 {
    let options = AuditOptions {
        shards: args.shards,
        pinned: args.pinned,
        show_keys: !args.hide_keys,
    };
    let audit = match Audit::new(options) {
        Ok(audit) => audit,
        Err(wrong) => {
            eprintln!("{wrong}");
            return EXIT_STATUS;
        }
    };
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    match runtime.map(|runtime| runtime.block_on(run(args, audit))) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("{error}");
            SYSTEM
        }
        Err(error) => {
            eprintln!("cannot start: {error}");
            SYSTEM
        }
    }
}

async fn run(args: &AuditArgs, audit: Audit) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot wait for signals: {error}");
    pass::connect(&args.node)
        .await
        .map_err(|error| format!("cannot reach the server at {}: {error}", args.node))?;
    let listener = Listener::bind(&args.listen).map_err(|error| error.to_string())?;
    let (mut report, mut terminate, mut interrupt) = (
        signal(SignalKind::user_defined1()).map_err(failed)?,
        signal(SignalKind::terminate()).map_err(failed)?,
        signal(SignalKind::interrupt()).map_err(failed)?,
    );
    let scene = Rc::new(Scene {
        node: args.node.clone(),
        audit: RefCell::new(audit),
        unconnected: Cell::new(0),
    });
    announce(args, &listener);
    let started = Instant::now();
    let told = || {
        let about = Circumstances {
            listen: listener.address(),
            node: args.node.to_string(),
            elapsed: started.elapsed(),
            unconnected: scene.unconnected.get(),
        };
        tell(&scene.audit.borrow(), &about, args.json);
    };
    let mut clients = JoinSet::new();
    let mut end = std::pin::pin!(after(args.longest));
    let mut ticks = args.every.map(|every| {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        ticks
    });
    loop {
        let tick = async {
            match &mut ticks {
                Some(ticks) => ticks.tick().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            accepted = listener.next() => match accepted {
                Ok((socket, _)) => {
                    clients.spawn_local(pass::pass(socket, Rc::clone(&scene)));
                }
                Err(_) => sleep(PAUSE).await,
            },
            Some(_) = clients.join_next() => {}
            _ = report.recv() => told(),
            _ = tick => told(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = &mut end => break,
        }
    }
    // What clients have begun is counted before the last word.
    clients.shutdown().await;
    told();
    Ok(())
}

fn announce(args: &AuditArgs, listener: &Listener) {
    eprintln!("listening audit={}", listener.address());
    eprintln!(
        "passing everything on to {}; Ctrl-C ends it and prints the report",
        args.node
    );
    if !args.listen.is_loopback() {
        eprintln!(
            "warning: {} can be reached from other machines, and so can the server behind it",
            args.listen
        );
    }
}

/// Ready after a time; never, if there is none.
async fn after(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

fn tell(audit: &Audit, about: &Circumstances, as_json: bool) {
    let text = if as_json {
        format!("{}\n", audit.json(about))
    } else {
        audit.text(about)
    };
    let mut out = io::stdout().lock();
    // Whoever closed the pipe has read enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
