//! For tests: connections to nodes that are not there, and mistakes that are made on purpose. Both belong to a thread.

use std::cell::{Cell, RefCell};
use std::io;

use super::client::Socket;
use super::seeded::Mistake;
use crate::topology::Address;

type Opened = io::Result<Box<dyn Socket>>;
type Network = Box<dyn Fn(&Address) -> Opened>;

thread_local! {
    static NETWORK: RefCell<Option<Network>> = const { RefCell::new(None) };
    static MISTAKE: Cell<Option<Mistake>> = const { Cell::new(None) };
}

/// From now on this thread connects to nodes in this way only; none: over real sockets.
pub(crate) fn set_network(network: Option<Network>) {
    NETWORK.with_borrow_mut(|current| *current = network);
}

pub(super) fn open(address: &Address) -> Option<Opened> {
    NETWORK.with_borrow(|network| network.as_ref().map(|open| open(address)))
}

/// From now on this mistake is made in this thread.
pub(crate) fn set_mistake(mistake: Option<Mistake>) {
    MISTAKE.set(mistake);
}

pub(crate) fn makes(mistake: Mistake) -> bool {
    MISTAKE.get() == Some(mistake)
}

#[tokio::test]
async fn mistakes_and_networks_are_made_where_it_was_said_only() {
    assert!(!makes(Mistake::SealsLate));
    set_mistake(Some(Mistake::SealsLate));
    assert!(makes(Mistake::SealsLate) && !makes(Mistake::FreezeReads));
    set_mistake(None);
    let address: Address = "127.0.0.1:1".parse().unwrap();
    set_network(Some(Box::new(|_| Ok(Box::new(tokio::io::duplex(1).0)))));
    assert!(super::client::open(&address, None).await.is_ok());
    set_network(None);
    assert!(open(&address).is_none());
}
