//! The cases as data: what is asked, how deep the pipeline, over how many connections.

use crate::Result;
use crate::subject::Kind;

/// One kind of load, the same for every subject.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) operation: Operation,
    pub(crate) values: &'static Values,
    /// Requests per pipeline.
    pub(crate) depth: u32,
    pub(crate) connections: u32,
    /// One load generator per entry; the connections and requests are divided among them.
    pub(crate) protocols: &'static [Protocol],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Get,
    Set,
    /// Ten random keys: over 1,024 shards nearly always ten different ones.
    Mget10,
    Mset10,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp2,
    Resp3,
}

/// A family of keys that all exist before the load starts, so that every GET finds its value.
#[derive(Debug)]
pub(crate) struct Values {
    pub(crate) prefix: &'static str,
    pub(crate) bytes: usize,
    pub(crate) keys: u32,
}

/// A measurement that is not a timed load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Special {
    /// System calls of the proxy per request at a pipeline depth.
    Syscalls(u32),
    /// Memory per idle connection.
    Idle,
}

/// What a run does.
#[derive(Debug, Default)]
pub(crate) struct Chosen {
    pub(crate) cases: Vec<&'static Case>,
    pub(crate) specials: Vec<Special>,
}

/// Small values: everything but copying.
pub(crate) static SMALL: Values = Values {
    prefix: "v64:",
    bytes: 64,
    keys: 10_000,
};
static KILO: Values = Values {
    prefix: "v1k:",
    bytes: 1024,
    keys: 10_000,
};
static LARGE: Values = Values {
    prefix: "v16k:",
    bytes: 16 * 1024,
    keys: 1_000,
};

const ONE: &[Protocol] = &[Protocol::Resp2];

pub(crate) static CASES: &[Case] = &[
    load("get", Operation::Get, &SMALL, 1),
    load("set", Operation::Set, &SMALL, 1),
    load("get-p16", Operation::Get, &SMALL, 16),
    load("set-p16", Operation::Set, &SMALL, 16),
    load("get-p100", Operation::Get, &SMALL, 100),
    load("set-p100", Operation::Set, &SMALL, 100),
    load("get-1k", Operation::Get, &KILO, 1),
    load("set-1k", Operation::Set, &KILO, 1),
    load("get-16k", Operation::Get, &LARGE, 1),
    load("set-16k", Operation::Set, &LARGE, 1),
    load("mget10", Operation::Mget10, &SMALL, 1),
    load("mset10", Operation::Mset10, &SMALL, 1),
    load("mget10-p16", Operation::Mget10, &SMALL, 16),
    load("mset10-p16", Operation::Mset10, &SMALL, 16),
    Case {
        connections: 1_000,
        ..load("get-c1000", Operation::Get, &SMALL, 1)
    },
    Case {
        connections: 5_000,
        ..load("get-c5000", Operation::Get, &SMALL, 1)
    },
    // Two generators in each of the three, so that only the protocols differ.
    Case {
        protocols: &[Protocol::Resp2, Protocol::Resp2],
        ..load("resp2", Operation::Get, &SMALL, 1)
    },
    Case {
        protocols: &[Protocol::Resp3, Protocol::Resp3],
        ..load("resp3", Operation::Get, &SMALL, 1)
    },
    Case {
        protocols: &[Protocol::Resp2, Protocol::Resp3],
        ..load("mixed", Operation::Get, &SMALL, 1)
    },
];

static SPECIALS: &[(&str, Special)] = &[
    ("syscalls", Special::Syscalls(1)),
    ("syscalls-p16", Special::Syscalls(16)),
    ("idle", Special::Idle),
];

const fn load(name: &'static str, operation: Operation, values: &'static Values, depth: u32) -> Case {
    Case {
        name,
        operation,
        values,
        depth,
        connections: 50,
        protocols: ONE,
    }
}

/// The cases of those names, all for none.
///
/// # Errors
/// An unknown name; the text lists the known ones.
pub(crate) fn choose(only: &[String]) -> Result<Chosen> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|one| one == name);
    let known: Vec<&str> = CASES
        .iter()
        .map(|case| case.name)
        .chain(SPECIALS.iter().map(|(name, _)| *name))
        .collect();
    if let Some(unknown) = only.iter().find(|one| !known.contains(&one.as_str())) {
        return Err(format!(
            "no case is called '{unknown}'; the cases are {}",
            known.join(", ")
        )
        .into());
    }
    Ok(Chosen {
        cases: CASES.iter().filter(|case| wanted(case.name)).collect(),
        specials: SPECIALS
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(_, special)| *special)
            .collect(),
    })
}

impl Case {
    /// What redis-benchmark sends: it replaces every `__rand_int__` by a random number of its own.
    pub(crate) fn command(&self) -> Vec<String> {
        let key = || format!("{}__rand_int__", self.values.prefix);
        let value = || "x".repeat(self.values.bytes);
        let words = |name: &str, rest: Vec<String>| [vec![name.to_owned()], rest].concat();
        match self.operation {
            Operation::Get => words("GET", vec![key()]),
            Operation::Set => words("SET", vec![key(), value()]),
            Operation::Mget10 => words("MGET", (0..10).map(|_| key()).collect()),
            Operation::Mset10 => words("MSET", (0..10).flat_map(|_| [key(), value()]).collect()),
        }
    }

    /// A protocol that the subject does not speak is not asked of it; twemproxy knows RESP2 only.
    /// The three protocol cases compare preshard with itself.
    pub(crate) fn suits(&self, kind: Kind) -> bool {
        self.protocols.len() == 1 || kind == Kind::Preshard
    }
}
