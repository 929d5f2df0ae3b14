//! The admin listener under clumsy and hostile input: each request gets one clear error, nothing changes, nobody else is
//! disturbed.
//!
//! ```text
//!  PRESHARD HELP ─▶ every word with its usage ─▶ wrong numbers of arguments  ─┐
//!                                             ─▶ hostile values at each place ─┴▶ one error line, and the next PING is answered
//! ```
//!
//! The words come out of `HELP`, so that a new one is covered as soon as it is there.

use std::collections::BTreeSet;

use crate::harness::{Client, Proxy, Reply, small};

/// Words that take any bytes at their places, and so answer whatever is asked.
const FREE: [&str; 3] = ["SHARD OF", "EXPLAIN", "CONFIG GET"];
/// A whole request above this is refused, and the connection closed.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;
const ARGS_MAX: usize = 16 * 1024;

/// No number, name, range, list, id or document that anything may take.
fn hostile_values() -> Vec<Vec<u8>> {
    let texts = [
        "",
        " ",
        "-1",
        "+1",
        "-0",
        "1.5",
        "1e3",
        "0x10",
        " 1",
        "1 ",
        "１",
        "99999999999999999999",
        "-9223372036854775809",
        "340282366920938463463374607431768211456",
        "0-99999",
        "0-4294967296",
        "5-2",
        "1-2-3",
        "-",
        ",",
        "0-",
        "-5",
        "1,,2",
        "0-1,",
        "db:",
        "db:0",
        "db:-1",
        "db:99999",
        "NaN",
        "null",
        "{}",
        "[]",
        "{\"format\":1}",
        "[[[[[[[[",
        "\"",
        "'",
        "\"a \\\"b\\\" 'c'\"",
        "'\"'\"'",
        "a b",
        "no-such-thing",
        "--help",
        "../../etc/passwd",
        "%s%n%d",
        "x\r\n+OK\r\n:1",
        "\r\n\r\n",
        "\0",
        "\u{1b}[2J",
        "e1-000000-1",
        "*",
    ];
    let mut values: Vec<Vec<u8>> = texts.iter().map(|text| text.as_bytes().to_vec()).collect();
    values.push(vec![0xff, 0xfe, 0x80]);
    values.push(b"abc\xc3".to_vec());
    values.push(vec![b'9'; 4096]);
    values.push(vec![b'['; 10_000]);
    values
}

/// One word of `HELP`.
#[derive(Debug, Clone)]
struct Word {
    /// Noun, and verb if there is one.
    path: Vec<String>,
    places: Vec<Place>,
    /// Its last place may be repeated.
    repeats: bool,
}

/// One place of a usage.
#[derive(Debug, Clone)]
struct Place {
    /// The word to type there, for one that is typed as it stands: `TO`.
    literal: Option<String>,
    optional: bool,
}

impl Word {
    /// Reads `SHARD MOVE <n[-m][,...]> TO <node> [MANUAL] [RATE bytes/s]`.
    fn read(line: &str) -> Self {
        let tokens: Vec<&str> = line.split(' ').collect();
        let is_name = |token: &&str| token.chars().all(|c| c.is_ascii_uppercase());
        let named = tokens.iter().take(2).take_while(|token| is_name(token)).count();
        let (mut places, mut repeats, mut optional) = (Vec::new(), false, false);
        for token in &tokens[named..] {
            let is_placeholder = token.starts_with('<');
            optional |= token.starts_with('[');
            let bare = token.trim_matches(['[', ']']);
            if bare == "..." {
                repeats = true;
            } else {
                places.push(Place {
                    literal: is_name(&bare).then(|| bare.to_owned()),
                    optional,
                });
            }
            optional &= is_placeholder || !token.ends_with(']');
        }
        Self {
            path: tokens[..named].iter().map(ToString::to_string).collect(),
            places,
            repeats,
        }
    }

    fn name(&self) -> String {
        self.path.join(" ")
    }

    fn is_free(&self) -> bool {
        FREE.contains(&self.name().as_str())
    }

    fn least(&self) -> usize {
        self.places.iter().filter(|place| !place.optional).count()
    }

    /// A request of this word with these arguments.
    fn with(&self, arguments: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
        let path = self.path.iter().map(|word| word.clone().into_bytes());
        std::iter::once(b"PRESHARD".to_vec())
            .chain(path)
            .chain(arguments)
            .collect()
    }

    /// Requests with one value at every place: with what must be given, with all, and in place of literals as well.
    fn filled(&self, value: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let typed = |place: &Place| match &place.literal {
            Some(literal) => literal.clone().into_bytes(),
            None => value.to_vec(),
        };
        let has_place = |places: &[&Place]| places.iter().any(|place| place.literal.is_none());
        let required: Vec<&Place> = self.places.iter().filter(|place| !place.optional).collect();
        let all: Vec<&Place> = self.places.iter().collect();
        let mut requests = Vec::new();
        for places in [required, all] {
            if has_place(&places) {
                requests.push(self.with(places.iter().map(|place| typed(place))));
            }
        }
        if self.places.is_empty() {
            requests.push(self.with([value.to_vec()]));
        } else {
            requests.push(self.with(self.places.iter().map(|_| value.to_vec())));
        }
        requests
    }

    /// Requests with too few or too many arguments.
    fn of_wrong_length(&self) -> Vec<Vec<Vec<u8>>> {
        let of = |count: usize| self.with((0..count).map(|_| b"0".to_vec()));
        let mut requests: Vec<_> = (0..self.least()).map(of).collect();
        if !self.repeats {
            let more = self.places.len() + 1;
            requests.extend([more, more + 1, 200, ARGS_MAX - 4].map(of));
        }
        requests
    }
}

/// All words that `PRESHARD HELP` tells of.
fn words(admin: &mut Client) -> Vec<Word> {
    let help = admin.ask("PRESHARD HELP").items();
    let lines = help.iter().skip(1).map(Reply::text);
    let words: Vec<Word> = lines
        .filter(|line| !line.starts_with(' '))
        .map(|line| Word::read(&line))
        .collect();
    assert!(words.len() > 30, "{words:?}");
    words
}

/// One error line that a person can read.
fn expect_clear_error(reply: &Reply, request: &[Vec<u8>]) {
    let shown = || {
        let words = request.iter().take(8);
        words
            .map(|word| String::from_utf8_lossy(&word[..word.len().min(60)]).into_owned())
            .collect::<Vec<_>>()
    };
    let line = reply
        .error()
        .unwrap_or_else(|| panic!("{:?} was answered: {reply:?}", shown()));
    assert!(line.starts_with("ERR "), "{:?}: {line}", shown());
    assert!((20..600).contains(&line.len()), "{:?}: {line}", shown());
    assert!(!line.contains(char::is_control), "{:?}: {line:?}", shown());
}

/// Sends a request with a PING behind it: one reply each.
fn ask(admin: &mut Client, request: &[Vec<u8>]) -> Reply {
    admin.command(request);
    admin.command(&["PING"]);
    let reply = admin.reply();
    assert_eq!(admin.reply(), Reply::Simple("PONG".to_owned()), "{request:?}");
    reply
}

/// What must be the same afterwards.
fn state(proxy: &Proxy) -> [String; 3] {
    let mut admin = proxy.admin_client();
    let nodes = admin.ask("PRESHARD SHOW NODES").items();
    let name = |row: &Reply| format!("{:?}", &row.items()[..6]);
    [
        admin.ask("PRESHARD TOPOLOGY DUMP").text(),
        format!("{:?}", admin.ask("PRESHARD SHOW CONFIG")),
        nodes.iter().map(name).collect(),
    ]
}

/// The proxy serves as before.
fn expect_unharmed(proxy: &Proxy, before: &[String; 3]) {
    assert_eq!(state(proxy), *before);
    let mut client = proxy.client();
    client.ask("SET still here").expect_ok();
    assert_eq!(client.ask("GET still").text(), "here");
}

#[test]
fn usages_are_read_as_they_are_meant() {
    let word = Word::read("SHARD MOVE <n[-m][,...]> TO <node> [MANUAL] [RATE bytes/s] [MAXPAUSE ms]");
    let places: Vec<(Option<&str>, bool)> = word
        .places
        .iter()
        .map(|place| (place.literal.as_deref(), place.optional))
        .collect();
    let expected = [
        (None, false),
        (Some("TO"), false),
        (None, false),
        (Some("MANUAL"), true),
        (Some("RATE"), true),
        (None, true),
        (Some("MAXPAUSE"), true),
        (None, true),
    ];
    assert_eq!(
        (word.name().as_str(), places.as_slice()),
        ("SHARD MOVE", &expected[..])
    );
    let explain = Word::read("EXPLAIN <command> [argument ...]");
    assert_eq!(
        (explain.least(), explain.places.len(), explain.repeats),
        (1, 2, true)
    );
    let plan = Word::read("PLAN REBALANCE [BY keys|ops|memory]");
    assert_eq!((plan.least(), plan.places.len()), (0, 2));
    assert_eq!(Word::read("SHOW SHARDS").path, ["SHOW", "SHARDS"]);
}

#[test]
fn every_word_refuses_wrong_numbers_of_arguments() {
    let (_nodes, proxy) = small();
    let before = state(&proxy);
    let mut admin = proxy.admin_client();
    for word in words(&mut admin) {
        for request in word.of_wrong_length() {
            let reply = ask(&mut admin, &request);
            expect_clear_error(&reply, &request);
        }
    }
    expect_unharmed(&proxy, &before);
}

#[test]
fn every_word_refuses_hostile_values() {
    let (_nodes, proxy) = small();
    let before = state(&proxy);
    let (mut admin, mut admin3) = (proxy.admin_client(), proxy.admin_client());
    admin3.ask("HELLO 3");
    let (mut asked, mut refused) = (0, 0);
    for word in words(&mut admin) {
        for value in hostile_values() {
            for request in word.filled(&value) {
                for admin in [&mut admin, &mut admin3] {
                    let reply = ask(admin, &request);
                    asked += 1;
                    // A word that takes anything may answer, or refuse as well.
                    if reply.error().is_some() || !word.is_free() {
                        expect_clear_error(&reply, &request);
                        refused += 1;
                    }
                }
            }
        }
    }
    println!("{asked} asked, {refused} refused");
    assert!(refused * 10 > asked * 9);
    expect_unharmed(&proxy, &before);
}

#[test]
fn arguments_of_a_megabyte_are_refused_and_more_ends_the_connection() {
    let (_nodes, proxy) = small();
    let before = state(&proxy);
    let mut admin = proxy.admin_client();
    for word in words(&mut admin) {
        let large = vec![b'7'; REQUEST_BYTES_MAX - 1024];
        let arguments = (0..word.places.len().max(1)).map(|place| match place {
            0 => large.clone(),
            _ => b"0".to_vec(),
        });
        let request = word.with(arguments);
        let reply = ask(&mut admin, &request);
        if !word.is_free() {
            expect_clear_error(&reply, &request);
        }
    }
    for request in [
        vec![b"PRESHARD".to_vec(), vec![b'x'; REQUEST_BYTES_MAX + 1]],
        vec![vec![b'x'; REQUEST_BYTES_MAX / 2]; 3],
        vec![b"PRESHARD".to_vec(); ARGS_MAX + 1],
    ] {
        let mut stranger = proxy.admin_client();
        // The listener may close before it has taken all.
        let sent = stranger.try_send(&crate::harness::wire::frame(&request));
        let told = stranger.until_closed();
        assert!(
            told.starts_with(b"-ERR Protocol error: ") || (sent.is_err() && told.is_empty()),
            "{:?}",
            String::from_utf8_lossy(&told)
        );
    }
    assert_eq!(admin.ask("PING"), Reply::Simple("PONG".to_owned()));
    expect_unharmed(&proxy, &before);
}

#[test]
fn words_that_are_none_are_refused_at_every_level() {
    let (_nodes, proxy) = small();
    let before = state(&proxy);
    let mut admin = proxy.admin_client();
    let all = words(&mut admin);
    let nouns: BTreeSet<String> = all.iter().map(|word| word.path[0].clone()).collect();
    let with_verbs = |noun: &str| all.iter().any(|word| word.path[0] == noun && word.path.len() > 1);
    for value in hostile_values() {
        let mut requests = vec![vec![b"PRESHARD".to_vec(), value.clone()]];
        requests.push(vec![b"PRESHARD".to_vec(), b"HELP".to_vec(), value.clone()]);
        for noun in nouns.iter().filter(|noun| with_verbs(noun)) {
            requests.push(vec![
                b"PRESHARD".to_vec(),
                noun.clone().into_bytes(),
                value.clone(),
            ]);
            let glued = [noun.as_bytes(), &value].concat();
            if !value.is_empty() {
                requests.push(vec![b"PRESHARD".to_vec(), glued]);
            }
        }
        for request in requests {
            let reply = ask(&mut admin, &request);
            expect_clear_error(&reply, &request);
            let line = reply.error().unwrap();
            assert!(line.contains("Try PRESHARD HELP"), "{line}");
        }
    }
    let alone = ask(&mut admin, &[b"PRESHARD".to_vec()]);
    expect_clear_error(&alone, &[]);
    for noun in nouns.iter().filter(|noun| with_verbs(noun)) {
        let request = [b"PRESHARD".to_vec(), noun.clone().into_bytes()];
        let reply = ask(&mut admin, &request);
        expect_clear_error(&reply, &request);
        assert!(
            reply
                .error()
                .unwrap()
                .contains(&format!("Try PRESHARD HELP {noun}"))
        );
    }
    expect_unharmed(&proxy, &before);
}

#[test]
fn help_is_there_at_every_level_in_any_case() {
    let (_nodes, proxy) = small();
    let mut admin = proxy.admin_client();
    let all = words(&mut admin);
    let lines = |reply: &Reply| reply.items().iter().map(Reply::text).collect::<Vec<_>>();
    let whole = lines(&admin.ask("preshard help"));
    assert_eq!(whole, lines(&admin.ask("PRESHARD HELP")));
    let nouns: BTreeSet<&str> = all.iter().map(|word| word.path[0].as_str()).collect();
    for noun in &nouns {
        let of_noun = lines(&admin.ask(&format!("PRESHARD HELP {noun}")));
        assert_eq!(of_noun[0], format!("PRESHARD {noun}. Words are:"));
        // Every word of the noun stands there as in the whole help, each with a sentence.
        let expected = all.iter().filter(|word| word.path[0] == *noun).count();
        assert_eq!(of_noun.len(), 1 + 2 * expected, "{of_noun:?}");
        for pair in of_noun[1..].chunks(2) {
            let at = whole.iter().position(|line| *line == pair[0]).unwrap();
            assert_eq!(whole[at + 1], pair[1]);
            assert!(pair[1].starts_with("    ") && pair[1].len() > 10, "{pair:?}");
        }
        let lower = noun.to_lowercase();
        assert_eq!(lines(&admin.ask(&format!("PRESHARD help {lower}"))), of_noun);
        // EXPLAIN explains the command HELP instead; HELP HELP is the help of HELP.
        if *noun != "EXPLAIN" {
            assert_eq!(
                lines(&admin.ask(&format!("PRESHARD {noun} HELP"))),
                of_noun,
                "{noun}"
            );
            assert_eq!(
                lines(&admin.ask(&format!("preshard {lower} help"))),
                of_noun,
                "{noun}"
            );
        }
    }
}

#[test]
fn quotes_of_inline_requests_are_taken_as_in_redis() {
    let (_nodes, proxy) = small();
    let before = state(&proxy);
    let mut admin = proxy.admin_client();
    for (line, key) in [
        (r#"PRESHARD SHARD OF "a \"b\" 'c'""#, r#"a "b" 'c'"#),
        (r#"PRESHARD SHARD OF 'a "b" \'c\''"#, r#"a "b" 'c'"#),
        (r#"PRESHARD "SHARD" 'OF' "\x41\\""#, "A\\"),
        (r#"PRESHARD SHARD OF """#, ""),
    ] {
        admin.send(format!("{line}\r\n").as_bytes());
        let row = admin.reply();
        assert_eq!(row.field("key").unwrap().text(), key, "{line}");
    }
    for line in [
        r#"PRESHARD SHARD OF "a"#,
        r#"PRESHARD SHARD OF 'a"#,
        r#"PRESHARD SHARD OF "a"b"#,
        r#"PRESHARD SHARD OF "'""'"#,
    ] {
        let mut stranger = proxy.admin_client();
        stranger.send(format!("{line}\r\n").as_bytes());
        let told = stranger.until_closed();
        assert_eq!(
            String::from_utf8_lossy(&told),
            "-ERR Protocol error: unbalanced quotes in request\r\n",
            "{line}"
        );
    }
    expect_unharmed(&proxy, &before);
}
