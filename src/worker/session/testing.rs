//! For tests of sessions: requests as lines, and what they are answered.

use super::input::Taken;
use crate::resp::{ArgRange, RequestLimits, RequestScanner};
use crate::worker::engine::Engine;
use crate::worker::testing::Peer;

/// A client's request, given as a line.
pub(super) fn request(engine: &mut Engine, peer: &Peer, line: &str) -> Taken {
    let frame: String = line
        .split(' ')
        .map(|word| format!("${}\r\n{word}\r\n", word.len()))
        .collect();
    let frame = format!("*{}\r\n{frame}", line.split(' ').count());
    let mut ranges: Vec<ArgRange> = Vec::new();
    let _ = RequestScanner::default().scan(frame.as_bytes(), &mut ranges, &RequestLimits::default());
    engine.begin_turn();
    engine.handle_request(peer.index, frame.as_bytes(), &ranges)
}

/// The same, answered by the proxy itself.
pub(super) async fn ask(engine: &mut Engine, peer: &mut Peer, line: &str, expected: &str) {
    assert_eq!(request(engine, peer, line), Taken::Yes, "{line}");
    let expected = format!("{expected}\r\n");
    let found = peer.read_all(engine, expected.len()).await;
    assert_eq!(String::from_utf8_lossy(&found), expected, "{line}");
}
