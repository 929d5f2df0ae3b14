//! Route, split and merge over many model shards answer what one model Redis would.
//!
//! ```text
//!  request ─▶ one model Redis ──────────────────────────────▶ reply ─┐
//!     │                                                              ├─ equal, and equal data afterwards
//!     └────▶ route ─▶ parts ─▶ model shards ─▶ replies ─▶ merge ─▶ reply ┘
//! ```

use std::collections::BTreeMap;
use std::rc::Rc;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::command;
use crate::resp::{Args, RequestLimits, RequestScanner, Scan};
use crate::route::{Plan, Scratch, route};
use crate::topology::{Node, Topology};

/// As much of Redis as the split commands need.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model(BTreeMap<Vec<u8>, Vec<u8>>);

impl Model {
    fn run(&mut self, args: &Args<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let name = String::from_utf8(args.get(0).to_ascii_lowercase()).unwrap();
        let keys = || args.iter().skip(1);
        let count = |number: usize| i64::try_from(number).unwrap();
        match name.as_str() {
            "mget" => {
                resp::write_array_header(&mut out, args.len() - 1);
                for key in keys() {
                    match self.0.get(key) {
                        Some(value) => resp::write_bulk(&mut out, value),
                        None => resp::write_null(&mut out, Protocol::Resp2),
                    }
                }
            }
            "mset" => {
                for place in (1..args.len()).step_by(2) {
                    self.0
                        .insert(args.get(place).to_vec(), args.get(place + 1).to_vec());
                }
                resp::write_simple(&mut out, "OK");
            }
            "del" | "unlink" => {
                let gone = keys().filter(|&key| self.0.remove(key).is_some()).count();
                resp::write_int(&mut out, count(gone));
            }
            "exists" | "touch" => {
                let there = keys().filter(|&key| self.0.contains_key(key)).count();
                resp::write_int(&mut out, count(there));
            }
            other => panic!("the model does not know {other}"),
        }
        out
    }
}

fn with_args<T>(frame: &[u8], with: impl FnOnce(&Args<'_>) -> T) -> T {
    let mut ranges = Vec::new();
    let scan = RequestScanner::default().scan(frame, &mut ranges, &RequestLimits::default());
    assert_eq!(scan, Scan::Frame { end: frame.len() });
    with(&Args::new(frame, &ranges))
}

/// What the worker does with a request, without its sockets. Replies come in the order that `turn` gives.
fn run_sharded(shards: &mut [Model], topology: &Topology, args: &Args<'_>, turn: usize) -> Vec<u8> {
    let spec = command::resolve(args).unwrap_or_else(|refusal| panic!("{}", refusal.line()));
    match route(spec, args, topology, 0, &mut Scratch::default()).unwrap() {
        Plan::One(shard) => shards[shard.index()].run(args),
        Plan::Split(split, splitting) => {
            let splitting = Rc::new(splitting);
            let parts = splitting.parts().len();
            let mut merge = Merge::new(Rule::of_split(split, &splitting), parts, spec.is_write());
            for part in (0..parts).map(|part| (part + turn) % parts) {
                let mut frame = Vec::new();
                splitting.write_frame(part, args, &mut frame);
                let shard = splitting.parts()[part].shard;
                let reply = with_args(&frame, |args| shards[shard.index()].run(args));
                merge.part(part, Outcome::Reply(&reply));
            }
            let mut out = Vec::new();
            merge.finish(Protocol::Resp2, &mut out);
            out
        }
        other => panic!("{other:?}"),
    }
}

fn request() -> impl Strategy<Value = Vec<Vec<u8>>> {
    // Few keys, so that they repeat; some share a hash tag.
    let key = "[a-h]|\\{[ab]\\}[a-d]|";
    let name = prop::sample::select(vec!["MGET", "mset", "DEL", "unlink", "Exists", "TOUCH"]);
    (name, vec((key, "[xyz]{0,3}"), 1..12)).prop_map(|(name, pairs)| {
        let mut words = vec![name.as_bytes().to_vec()];
        for (key, value) in pairs {
            words.push(key.into_bytes());
            if name == "mset" {
                words.push(value.into_bytes());
            }
        }
        words
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn many_shards_answer_what_one_redis_answers(
        requests in vec(request(), 1..30),
        power in 0_u32..=10,
        turn in 0_usize..7,
    ) {
        let node = Node { name: "n".to_owned(), address: "127.0.0.1:1".parse().unwrap() };
        let topology = Topology::seed("test".to_owned(), 1 << power, 0, vec![node]).unwrap();
        let mut one = Model::default();
        let mut many = vec![Model::default(); 1 << power];
        for words in &requests {
            let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
            let mut frame = Vec::new();
            resp::write_request(&mut frame, &words);
            with_args(&frame, |args| {
                let expected = one.run(args);
                let got = run_sharded(&mut many, &topology, args, turn);
                prop_assert_eq!(
                    String::from_utf8(got), String::from_utf8(expected), "{}", frame.escape_ascii()
                );
                Ok(())
            })?;
        }
        let mut together = Model::default();
        for (shard, model) in many.into_iter().enumerate() {
            for (key, value) in model.0 {
                prop_assert_eq!(topology.shard_of_key(&key).index(), shard, "a key on a foreign shard");
                prop_assert!(together.0.insert(key, value).is_none(), "a key on two shards");
            }
        }
        prop_assert_eq!(together, one);
    }
}
