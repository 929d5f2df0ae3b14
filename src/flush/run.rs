//! From settings to workers and back: signals, the HTTP port, the end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::database::{Database, Failure};
use super::fault::Fault;
use super::figures::{Figures, Side};
use super::rehearsal::{check_postgres, rehearse};
use super::settings::Settings;
use super::worker::{End, Worker, answer_limit};
use crate::http::{self, Endpoints, HttpLimits, Readiness};
use crate::topology::Address;

/// How a flusher runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Until a signal ends it.
    Forever,
    /// Until nothing is due.
    Once,
    /// Look, and write nothing.
    DryRun,
}

/// Why a flusher ended otherwise than as it should.
#[derive(Debug, thiserror::Error)]
pub enum FlushError {
    /// Postgres refuses the statement of a counter, or lacks the tables.
    #[error("{0}")]
    Refused(String),
    /// Something that is due is left.
    #[error("not everything could be flushed; it comes again. See the log above")]
    Left,
    /// A side cannot be reached.
    #[error("{0} could not be reached; see the log above")]
    Unreachable(&'static str),
    /// An address or the system refuses.
    #[error("{0}")]
    System(String),
    /// A second signal came.
    #[error("ended at once, as asked; what was taken comes again")]
    Cut,
}

impl FlushError {
    /// What the process ends with.
    #[must_use]
    pub const fn exit_status(&self) -> u8 {
        match self {
            Self::Refused(_) | Self::Left => 1,
            Self::Unreachable(_) | Self::System(_) => 3,
            Self::Cut => 130,
        }
    }
}

/// Runs a flusher to its end. `announce` is for whoever started it, one line a time.
///
/// # Errors
/// See [`FlushError`].
pub fn run(settings: Settings, mode: Mode, mut announce: impl FnMut(&str) + Send) -> Result<(), FlushError> {
    let runtime = runtime().map_err(|error| FlushError::System(format!("cannot start: {error}")))?;
    for warning in &settings.warnings {
        tracing::warn!(event = "config_warning", "{warning}");
    }
    let settings = Arc::new(settings);
    let outcome = runtime.block_on(async {
        match mode {
            Mode::DryRun => rehearse(&settings, &mut announce).await,
            Mode::Once | Mode::Forever => Box::pin(flush(settings, mode, &mut announce)).await,
        }
    });
    runtime.shutdown_background();
    outcome
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flush")
        .enable_all()
        .build()
}

async fn flush(
    settings: Arc<Settings>,
    mode: Mode,
    announce: &mut (dyn FnMut(&str) + Send),
) -> Result<(), FlushError> {
    let system = |error: io::Error| FlushError::System(format!("cannot wait for signals: {error}"));
    let mut signals = (
        signal(SignalKind::terminate()).map_err(system)?,
        signal(SignalKind::interrupt()).map_err(system)?,
    );
    let figures = Figures::new(&settings).map_err(|error| FlushError::System(error.to_string()))?;
    let figures = Arc::new(figures);
    let ready = Arc::new(AtomicBool::new(false));
    let http = listen(&settings, &figures, &ready, announce).await?;
    check(&settings).await?;
    let (stop, stopped) = watch::channel(false);
    let once = mode == Mode::Once;
    let mut workers = JoinSet::new();
    for _ in 0..settings.workers {
        let (settings, figures) = (Arc::clone(&settings), Arc::clone(&figures));
        workers.spawn(Worker::new(settings, figures, stopped.clone(), once).run());
    }
    ready.store(true, Ordering::Release);
    announce("ready");
    tracing::info!(
        event = "flush_started",
        source = settings.source,
        counters = settings.counters.len(),
        workers = settings.workers,
        once
    );
    let mut ends = Vec::new();
    let mut asked = false;
    loop {
        tokio::select! {
            ended = workers.join_next() => match ended {
                None => break,
                Some(Ok(end)) => ends.push(end),
                Some(Err(error)) => return Err(FlushError::System(format!("a worker died: {error}"))),
            },
            () = any(&mut signals) => {
                if asked {
                    return Err(FlushError::Cut);
                }
                asked = true;
                ready.store(false, Ordering::Release);
                tracing::info!(event = "flush_stopping", "what has been taken is finished first");
                stop.send_replace(true);
            }
        }
    }
    drop(http);
    tracing::info!(event = "flush_stopped");
    outcome(&ends)
}

fn outcome(ends: &[End]) -> Result<(), FlushError> {
    let unreachable = ends.iter().find_map(|end| match end {
        End::Unreachable(side) => Some(*side),
        End::Done | End::Left => None,
    });
    match unreachable {
        Some(Side::Redis) => Err(FlushError::Unreachable("preshard")),
        Some(Side::Postgres) => Err(FlushError::Unreachable("Postgres")),
        None if ends.contains(&End::Left) => Err(FlushError::Left),
        None => Ok(()),
    }
}

async fn any((terminate, interrupt): &mut (Signal, Signal)) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Refuses to start with a statement that Postgres refuses. A Postgres that is away is waited for later.
async fn check(settings: &Settings) -> Result<(), FlushError> {
    let database = match Database::connect(&settings.postgres, answer_limit(settings.lease)).await {
        Ok(database) => database,
        Err(error) => {
            tracing::warn!(event = "postgres_unreachable", %error);
            return Ok(());
        }
    };
    let wrong = |failure: &Failure| {
        matches!(
            failure,
            Failure::Refused {
                fault: Fault::Statement,
                ..
            }
        )
    };
    match check_postgres(&database, settings).await {
        Err((what, failure)) if wrong(&failure) => Err(FlushError::Refused(format!("{what}: {failure}"))),
        Err(_) | Ok(_) => Ok(()),
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz`, if an address is given.
async fn listen(
    settings: &Settings,
    figures: &Arc<Figures>,
    ready: &Arc<AtomicBool>,
    announce: &mut (dyn FnMut(&str) + Send),
) -> Result<JoinSet<()>, FlushError> {
    let mut tasks = JoinSet::new();
    let Some(address) = &settings.metrics else {
        return Ok(tasks);
    };
    let Address::Tcp { host, port } = address else {
        return Err(FlushError::System("metrics must be host:port".into()));
    };
    let refused = |error: io::Error| FlushError::System(format!("cannot listen on {address}: {error}"));
    let listener = tokio::net::TcpListener::bind((host.as_str(), *port))
        .await
        .map_err(refused)?;
    announce(&format!(
        "listening http={}",
        listener.local_addr().map_err(refused)?
    ));
    let (page, ready) = (Arc::clone(figures), Arc::clone(ready));
    let endpoints = Endpoints {
        metrics: Arc::new(move || page.page()),
        topology: None,
        readiness: Readiness::by(move || {
            if ready.load(Ordering::Acquire) {
                Vec::new()
            } else {
                vec!["the flusher starts or stops"]
            }
        }),
    };
    tasks.spawn(http::serve(
        listener,
        endpoints,
        HttpLimits::default(),
        std::future::pending(),
    ));
    Ok(tasks)
}
