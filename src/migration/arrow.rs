//! Named points of a move, at which a test can make it stand still, and then kill or stop whoever it likes.
//!
//! ```text
//!  test:  writes FOLDER/frozen ─▶ … ─▶ sees FOLDER/frozen.here ─▶ kills, stops, cuts ─▶ removes FOLDER/frozen.here
//!  move:            … ─▶ reached("frozen") renames it, which only one process can ─▶ waits ────────────┘ ─▶ goes on
//! ```
//!
//! Only builds with debug assertions look at anything: in a release build [`reached`] is empty, whatever the environment says.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// Names the folder.
const VARIABLE: &str = "PRESHARD_ARROWS";
const PACE: Duration = Duration::from_millis(1);

/// This point of a move has been reached. Waits as long as a test wants it.
pub(super) async fn reached(name: &'static str) {
    if cfg!(debug_assertions) {
        hold(name).await;
    }
}

async fn hold(name: &'static str) {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let Some(folder) = FOLDER.get_or_init(|| std::env::var_os(VARIABLE).map(PathBuf::from)) else {
        return;
    };
    let here = folder.join(format!("{name}.here"));
    if std::fs::rename(folder.join(name), &here).is_err() {
        return;
    }
    tracing::info!(event = "arrow_reached", name);
    while here.exists() {
        tokio::time::sleep(PACE).await;
    }
}
