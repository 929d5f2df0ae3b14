//! Shards whose move is given up go back to their source, however often that fails, and nobody calls the move over before.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::harness::{Client, Metronome, Node, Proxy, Setup, key_in, wait_until};
use crate::moving::{Arrows, PATIENCE, can_stop, field, move_shards, order, state, users_of_moves};

/// How long clients may wait once nothing is in the way any more: the longest pause between two attempts, and some.
const RESUMED: Duration = Duration::from_secs(5);

struct World {
    nodes: Vec<Node>,
    arrows: Arrows,
    setup: Setup,
    proxy: Proxy,
}

impl World {
    fn start() -> Self {
        let (nodes, arrows) = (vec![Node::start(), Node::start()], Arrows::new());
        let setup = Setup::of(&[nodes[0].address(), nodes[1].address()])
            .arrows(arrows.folder())
            // Longer than what stands in the way does, on any machine.
            .proxy("hold_max = \"60s\"")
            .any_warning();
        let proxy = setup.start();
        Self {
            nodes,
            arrows,
            setup,
            proxy,
        }
    }

    /// A move that stands still where its source refuses everything: its task.
    fn freeze(&self, admin: &mut Client) -> String {
        self.arrows.arm("frozen");
        let task = order(admin, "SHARD MOVE 0-3 TO node-2");
        self.arrows.until_reached("frozen");
        task
    }

    /// No topology can be stored; records of tasks can.
    fn block(&self) -> PathBuf {
        let next = PathBuf::from(format!("{}.tmp", self.proxy.store));
        let _ = std::fs::remove_file(&next);
        std::fs::create_dir(&next).unwrap();
        next
    }
}

#[test]
fn a_release_that_fails_is_tried_again_until_it_is_done_and_the_task_says_so() {
    if !can_stop() {
        return;
    }
    let world = World::start();
    let (mut admin, mut client) = (world.proxy.admin_client(), world.proxy.client());
    let key = key_in(0, 8, "k");
    client.call(&["SET", &key, "before"]).expect_ok();
    let task = world.freeze(&mut admin);
    client.command(&["GETSET", &key, "behind"]);
    let blocked = world.block();
    world.arrows.let_go("frozen");
    wait_until("the task says what it waits for", PATIENCE, || {
        let (state, row) = state(&mut admin, &task);
        assert!(
            !matches!(state.as_str(), "failed" | "moved" | "cancelled"),
            "{row:?}"
        );
        field(&row, "error").contains("are not given back to node 'node-1' yet")
    });
    // Twice at least.
    wait_until("it is tried again", PATIENCE, || {
        world.proxy.log().matches("shards_not_released").count() > 2
    });
    std::fs::remove_dir(blocked).unwrap();
    let (free, metronome) = (Instant::now(), Metronome::start());
    assert_eq!(client.reply().text(), "before", "it waited, and has run");
    let (took, late) = (free.elapsed(), metronome.late());
    assert!(took < RESUMED + late, "{took:?}, late {late:?}");
    wait_until("the task is over", PATIENCE, || {
        let (state, row) = state(&mut admin, &task);
        if state == "failed" {
            let error = field(&row, "error");
            assert!(error.contains("the topology was not changed"), "{error}");
        }
        state == "failed"
    });
    let row = admin.ask("PRESHARD SHARD INFO 0");
    assert_eq!(field(&row, "node"), "node-1");
    move_shards(&mut admin, "0-3", "node-2");
    assert_eq!(client.call(&["GET", &key]).text(), "behind");
}

#[test]
fn shards_that_are_held_for_a_task_that_is_over_are_released_by_whoever_leads() {
    if !can_stop() {
        return;
    }
    let mut world = World::start();
    let mut admin = world.proxy.admin_client();
    let key = key_in(0, 8, "k");
    let task = world.freeze(&mut admin);
    world.proxy.kill();
    // As a version before has left it.
    let record = PathBuf::from(format!("{}.tasks/{task}.json", world.proxy.store));
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.contains(r#""state":"cutting-over""#), "{text}");
    std::fs::write(
        &record,
        text.replace(r#""state":"cutting-over""#, r#""state":"failed","finished":1"#)
            .replace(r#""finished":0,"#, ""),
    )
    .unwrap();
    let topology = std::fs::read_to_string(&world.proxy.store).unwrap();
    assert!(topology.contains(&format!("ps-u-{task}")), "{topology}");
    let again = world.setup.clone().store(&world.proxy.store).start();
    let mut client = again.client();
    // Nobody can log in anew as a user that is frozen: until it is released, the node seems to be down.
    wait_until("it is served", PATIENCE, || {
        let reply = client.call(&["SET", &key, "v"]);
        assert!(
            reply
                .error()
                .is_none_or(|error| error.starts_with("CLUSTERDOWN ")),
            "{reply:?}"
        );
        reply.is_ok()
    });
    assert_eq!(state(&mut again.admin_client(), &task).0, "failed");
    wait_until("the unit's user is gone", PATIENCE, || {
        let left = users_of_moves(&world.nodes[0]);
        left.iter().all(|user| !user.starts_with("ps-u-"))
    });
    move_shards(&mut again.admin_client(), "0-3", "node-2");
    assert_eq!(again.client().call(&["GET", &key]).text(), "v");
}
