//! The tracker and what waits for replies against a model: whatever comes between reads, changes and losses, no client
//! keeps a value that is not the store's.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::resp::elements;
use crate::worker::tracking::held::Held;

const CLIENTS: usize = 3;
const KEYS: [&str; 5] = ["a", "ab", "abc", "b", "long"];

#[derive(Clone, Debug)]
enum Act {
    /// A client asks for a key.
    Ask(usize, usize),
    /// The node runs the oldest request that it has, of all clients.
    Run,
    /// The proxy reads a reply.
    Reply,
    /// Somebody writes a key.
    Write(usize),
    /// Everything is emptied.
    Empty,
    /// The proxy reads a push.
    Hear,
    /// The feed breaks on the node's side; what was under way is lost.
    Break,
    /// The proxy sees that the feed is broken.
    See,
    /// A new feed is confirmed.
    Confirm,
    /// A client stops, or starts in some mode.
    Stop(usize),
    Start(usize, u8),
    Caching(usize),
    Sweep,
}

fn act() -> impl Strategy<Value = Act> {
    let client = || 0..CLIENTS;
    prop_oneof![
        8 => (client(), 0..KEYS.len()).prop_map(|(client, key)| Act::Ask(client, key)),
        8 => Just(Act::Run),
        8 => Just(Act::Reply),
        6 => (0..KEYS.len()).prop_map(Act::Write),
        1 => Just(Act::Empty),
        6 => Just(Act::Hear),
        1 => Just(Act::Break),
        2 => Just(Act::See),
        2 => Just(Act::Confirm),
        1 => client().prop_map(Act::Stop),
        2 => (client(), any::<u8>()).prop_map(|(client, mode)| Act::Start(client, mode)),
        2 => client().prop_map(Act::Caching),
        1 => Just(Act::Sweep),
    ]
}

/// What a client gets, in the order it gets it.
#[derive(Debug)]
enum Got {
    Value { key: usize, value: u64, may_cache: bool },
    Drop(Bytes),
}

#[derive(Default)]
struct Client {
    head: u32,
    /// Keys of requests under way, and whether the client may cache what comes.
    asked: VecDeque<(usize, bool)>,
    held: Held,
    got: Vec<Got>,
}

/// A worker, one node and its clients.
struct World {
    tracker: Tracker,
    store: [u64; KEYS.len()],
    writes: u64,
    clients: Vec<Client>,
    /// Requests on their way to the node, and replies on their way back.
    link: VecDeque<(usize, usize)>,
    replies: VecDeque<(usize, usize, u64)>,
    feed: Feed,
    /// `None`: everything was emptied.
    pushes: VecDeque<Option<usize>>,
}

#[derive(PartialEq)]
enum Feed {
    Up,
    /// The node has lost it, and the proxy does not know.
    Broken,
    /// The proxy knows.
    Down,
}

impl World {
    fn new(keys: usize) -> Self {
        Self {
            tracker: Tracker::new(Limits { keys, bytes: 4096 }),
            store: [0; KEYS.len()],
            writes: 0,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            link: VecDeque::new(),
            replies: VecDeque::new(),
            feed: Feed::Up,
            pushes: VecDeque::new(),
        }
    }

    fn tell(&mut self, tell: Vec<Tell>) {
        for (client, push) in tell {
            let client = &mut self.clients[client];
            if client.asked.is_empty() {
                client.got.push(Got::Drop(push));
            } else {
                let in_flight = u32::try_from(client.asked.len()).unwrap();
                client.held.push(client.head + in_flight - 1, &push);
            }
        }
    }

    /// As `Engine::note_read`.
    fn note(&mut self, client: usize, key: &str) {
        if !self.tracker.remembers(client, key.as_bytes()) {
            return;
        }
        let mut tell = Vec::new();
        // The tests' one name that is too long to be kept.
        if self.feed == Feed::Down || key == "long" {
            tell.push((client, name_push(key.as_bytes())));
        } else {
            self.tracker.read(client, key.as_bytes(), &mut tell);
        }
        self.tell(tell);
    }

    fn drop_everything(&mut self) {
        let mut tell = Vec::new();
        self.tracker.drop_everything(&mut tell);
        self.tell(tell);
    }

    fn push(&mut self, push: Option<usize>) {
        if self.feed == Feed::Up {
            self.pushes.push_back(push);
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Ask(client, key) => self.ask(client, key),
            Act::Run => {
                if let Some((client, key)) = self.link.pop_front() {
                    self.replies.push_back((client, key, self.store[key]));
                }
            }
            Act::Reply => self.reply(),
            Act::Write(key) => {
                self.writes += 1;
                self.store[key] = self.writes;
                self.push(Some(key));
            }
            Act::Empty => {
                self.store = [0; KEYS.len()];
                self.push(None);
            }
            Act::Hear => self.hear(),
            Act::Break if self.feed == Feed::Up => self.feed = Feed::Broken,
            Act::See if self.feed == Feed::Broken => {
                self.pushes.clear();
                self.feed = Feed::Down;
                self.drop_everything();
            }
            Act::Confirm if self.feed == Feed::Down => {
                self.feed = Feed::Up;
                self.drop_everything();
            }
            Act::Break | Act::See | Act::Confirm => {}
            Act::Stop(client) => {
                // As in Redis, what a client has cached is its own matter from here on.
                self.tracker.stop(client);
                let client = &mut self.clients[client];
                client.got.push(Got::Drop(Bytes::from_static(EVERYTHING)));
                client.asked.iter_mut().for_each(|asked| asked.1 = false);
            }
            Act::Start(client, mode) => self.start(client, mode),
            Act::Caching(client) => {
                if let Some(reader) = self.tracker.reader_mut(client) {
                    reader.caching = true;
                }
            }
            Act::Sweep => self.tracker.sweep(3),
        }
    }

    fn start(&mut self, client: usize, mode: u8) {
        if self.tracker.reader(client).is_some() {
            return;
        }
        let mode = [Mode::Reads, Mode::OptIn, Mode::OptOut, Mode::Broadcast][usize::from(mode % 4)];
        let prefixes = match mode {
            Mode::Broadcast if client == 0 => vec![Rc::from(&b"ab"[..]), Rc::from(&b"l"[..])],
            _ => Vec::new(),
        };
        let options = Options {
            mode,
            noloop: false,
            prefixes,
        };
        self.tracker.start(client, options);
    }

    fn ask(&mut self, client: usize, key: usize) {
        let may_cache = self.tracker.remembers(client, KEYS[key].as_bytes());
        self.clients[client].asked.push_back((key, may_cache));
        self.link.push_back((client, key));
        self.note(client, KEYS[key]);
        if let Some(reader) = self.tracker.reader_mut(client) {
            reader.caching = false;
        }
    }

    fn reply(&mut self) {
        let Some((number, key, value)) = self.replies.pop_front() else {
            return;
        };
        let client = &mut self.clients[number];
        let (asked, may_cache) = client.asked.pop_front().unwrap();
        assert_eq!(asked, key);
        client.got.push(Got::Value {
            key,
            value,
            may_cache,
        });
        client.head += 1;
        while let Some(push) = client.held.poll(client.head) {
            client.got.push(Got::Drop(push));
        }
    }

    fn hear(&mut self) {
        match self.pushes.pop_front() {
            None => {}
            Some(None) => self.drop_everything(),
            Some(Some(key)) => {
                let (mut broadcast, mut tell) = (Broadcast::new(), Vec::new());
                self.tracker
                    .invalidate(KEYS[key].as_bytes(), &mut broadcast, &mut tell);
                self.tracker.finish(broadcast, &mut tell);
                self.tell(tell);
            }
        }
    }

    /// Everything that is under way arrives.
    fn settle(&mut self) {
        while !self.link.is_empty() || !self.replies.is_empty() {
            self.act(&Act::Run);
            self.act(&Act::Reply);
        }
        self.act(&Act::See);
        while !self.pushes.is_empty() {
            self.act(&Act::Hear);
        }
    }

    /// What a client has in its cache after all that it got.
    fn cache(&self, client: usize) -> BTreeMap<usize, u64> {
        let mut cache = BTreeMap::new();
        for got in &self.clients[client].got {
            match got {
                Got::Value {
                    key,
                    value,
                    may_cache: true,
                } => {
                    cache.insert(*key, *value);
                }
                Got::Value { .. } => {}
                Got::Drop(push) if *push == EVERYTHING => cache.clear(),
                Got::Drop(push) => {
                    let names = elements(push).unwrap().nth(1).unwrap();
                    for name in elements(names).unwrap() {
                        let name = resp::bulk(name).unwrap();
                        cache.retain(|&key, _| KEYS[key].as_bytes() != name);
                    }
                }
            }
        }
        cache
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_client_keeps_what_is_not_the_stores(
        keys in 1_usize..6,
        acts in prop::collection::vec(act(), 1..120),
    ) {
        let mut world = World::new(keys);
        for client in 0..CLIENTS {
            world.act(&Act::Start(client, u8::try_from(client).unwrap()));
        }
        for act in &acts {
            world.act(act);
            prop_assert!(world.tracker.table.len() <= keys);
        }
        world.settle();
        for client in 0..CLIENTS {
            prop_assert!(world.clients[client].held.is_empty());
            for (key, value) in world.cache(client) {
                prop_assert_eq!(value, world.store[key], "client {} has an old {}", client, KEYS[key]);
            }
        }
        // Whoever leaves leaves nothing behind.
        (0..CLIENTS).for_each(|client| {
            world.tracker.stop(client);
        });
        world.tracker.sweep(1000);
        prop_assert_eq!(world.tracker.sizes(), [0; 3]);
        prop_assert_eq!(world.tracker.bytes(), 0);
    }
}

fn told(tell: &[Tell]) -> Vec<(usize, String)> {
    let text = |(client, push): &Tell| (*client, String::from_utf8_lossy(push).replace("\r\n", " "));
    tell.iter().map(text).collect()
}

#[test]
fn prefixes_are_told_all_names_of_one_push_together() {
    let mut tracker = Tracker::new(Limits {
        keys: 10,
        bytes: 1 << 20,
    });
    let with = |prefixes: &[&str]| Options {
        mode: Mode::Broadcast,
        prefixes: prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect(),
        ..Options::default()
    };
    tracker.start(1, with(&[]));
    tracker.start(2, with(&["user:", "x"]));
    tracker.start(2, with(&["y"]));
    let (mut broadcast, mut tell) = (Broadcast::new(), Vec::new());
    for key in ["user:1", "else", "user:2", "y"] {
        tracker.invalidate(key.as_bytes(), &mut broadcast, &mut tell);
    }
    assert!(tell.is_empty());
    tracker.finish(broadcast, &mut tell);
    assert_eq!(
        told(&tell),
        [
            (
                1,
                ">2 $10 invalidate *4 $6 user:1 $4 else $6 user:2 $1 y ".to_owned()
            ),
            (2, ">2 $10 invalidate *2 $6 user:1 $6 user:2 ".to_owned()),
            (2, ">2 $10 invalidate *1 $1 y ".to_owned()),
        ]
    );
    assert!(tracker.stop(2) && !tracker.stop(2));
    assert_eq!(tracker.sizes(), [1, 0, 1]);
}

#[test]
fn who_has_dropped_everything_is_not_told_of_what_it_read_before() {
    let mut tracker = Tracker::new(Limits {
        keys: 10,
        bytes: 1 << 20,
    });
    tracker.start(1, Options::default());
    tracker.start(2, Options::default());
    let mut tell = Vec::new();
    tracker.read(1, b"k", &mut tell);
    tracker.drop_everything(&mut tell);
    assert_eq!(tell.len(), 2);
    tell.clear();
    tracker.read(2, b"k", &mut tell);
    tracker.invalidate(b"k", &mut Broadcast::new(), &mut tell);
    assert_eq!(told(&tell), [(2, ">2 $10 invalidate *1 $1 k ".to_owned())]);
}
