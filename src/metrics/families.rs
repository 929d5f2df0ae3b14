//! The table of metric families: one row for each. It drives the exposition and `docs/METRICS.md`.
//!
//! A row says the name, the type, the help text, the labels, and how to read the family's numbers. Names have
//! the prefix `preshard_`, base units and `_total` for counters; there are no averages, ratios or rates, which
//! are the reader's business. Shards are never crossed with commands or buckets.

use super::access;
use super::family::{
    CLASS, CODE, COMMAND, DB, DISCONNECT, Family, LIMIT, LINK_CLOSE, NODE, ORIGIN, PROTOCOL, REVISION, SHARD,
    VERSION, WORKER, counter, gauge, histogram,
};
use super::labels::{Disconnect, ErrorCode, Label, Limit, LinkClose, Origin, RequestClass, Wire};
use super::read::{commands, each_cell, each_gauge, nodes, process, shards};

/// The families of clients, requests, shards and nodes.
pub(super) static FAMILIES: &[Family] = &[
    // The process.
    gauge(
        "preshard_build_info",
        &[VERSION, REVISION],
        "Always 1; the labels say what runs.",
        |_, out| {
            out.row(
                &[
                    env!("CARGO_PKG_VERSION"),
                    option_env!("PRESHARD_REVISION").unwrap_or("unknown"),
                ],
                1.0,
            );
        },
    ),
    gauge(
        "preshard_uptime_seconds",
        &[],
        "Time since this process began to count.",
        |s, out| {
            out.row(&[], s.started.elapsed().as_secs_f64());
        },
    ),
    counter(
        "preshard_log_lines_dropped_total",
        &[],
        "Log lines dropped because nobody took them.",
        |s, out| {
            out.count(&[], s.facts.log_lines_dropped());
        },
    ),
    counter(
        "process_cpu_seconds_total",
        &[],
        "CPU time, user and system.",
        |s, out| process(s, out, |p| p.cpu_seconds),
    ),
    gauge(
        "process_resident_memory_bytes",
        &[],
        "Resident memory.",
        |s, out| process(s, out, |p| p.resident_bytes),
    ),
    gauge("process_virtual_memory_bytes", &[], "Address space.", |s, out| {
        process(s, out, |p| p.virtual_bytes)
    }),
    gauge(
        "process_start_time_seconds",
        &[],
        "Start of the process, Unix time.",
        |s, out| {
            process(s, out, |p| p.start_time_seconds);
        },
    ),
    gauge("process_threads", &[], "Threads.", |s, out| {
        process(s, out, |p| p.threads)
    }),
    gauge("process_open_fds", &[], "Open file descriptors.", |s, out| {
        process(s, out, |p| p.open_fds)
    }),
    gauge(
        "process_max_fds",
        &[],
        "Soft limit of open file descriptors.",
        |s, out| process(s, out, |p| p.max_fds),
    ),
    // Clients.
    gauge(
        "preshard_client_connections",
        &[PROTOCOL],
        "Clients connected now.",
        |s, out| {
            each_gauge(s, out, |w, wire| &w.client_connections[wire]);
        },
    ),
    gauge(
        "preshard_client_connections_max",
        &[],
        "The limit of clients in all (`max_clients`).",
        |s, out| {
            out.count(&[], s.facts.max_clients());
        },
    ),
    counter(
        "preshard_client_connections_total",
        &[],
        "Clients accepted.",
        |s, out| {
            out.count(&[], s.sum(|w| w.connections_total.load()));
        },
    ),
    counter(
        "preshard_client_disconnects_total",
        &[DISCONNECT],
        "Clients gone, by reason.",
        |s, out| {
            each_cell(s, out, |w, reason: Disconnect| &w.disconnects[reason]);
        },
    ),
    counter(
        "preshard_client_receive_bytes_total",
        &[],
        "Bytes read from clients.",
        |s, out| {
            out.count(&[], s.sum(|w| w.receive_bytes.load()));
        },
    ),
    counter(
        "preshard_client_transmit_bytes_total",
        &[],
        "Bytes written to clients.",
        |s, out| {
            out.count(&[], s.sum(|w| w.transmit_bytes.load()));
        },
    ),
    gauge(
        "preshard_client_input_buffer_bytes",
        &[],
        "Request bytes in memory: read and not yet passed to a node, those held by a gate included.",
        |s, out| out.count(&[], s.sum(|w| w.input_buffer_bytes.load())),
    ),
    gauge(
        "preshard_client_output_buffer_bytes",
        &[],
        "Reply bytes in memory that clients did not yet take.",
        |s, out| out.count(&[], s.sum(|w| w.output_buffer_bytes.load())),
    ),
    access::AUTH_FAILURES,
    access::REFUSED,
    access::USER_CLIENTS,
    counter(
        "preshard_limits_reached_total",
        &[LIMIT],
        "How often a limit was reached.",
        |s, out| {
            each_cell(s, out, |w, limit: Limit| &w.limits[limit]);
        },
    ),
    gauge(
        "preshard_worker_connections",
        &[WORKER],
        "Clients connected to each worker.",
        |s, out| {
            for (number, worker) in s.workers.iter().enumerate() {
                let clients = Wire::ALL
                    .iter()
                    .map(|&wire| worker.client_connections[wire].load())
                    .sum();
                out.count(&[&number.to_string()], clients);
            }
        },
    ),
    // Requests.
    counter(
        "preshard_requests_total",
        &[COMMAND],
        "Requests by command.",
        |s, out| {
            commands(s, out, |w, index| w.requests.load(index));
        },
    ),
    counter(
        "preshard_unsupported_commands_total",
        &[COMMAND],
        "Requests for commands that are not served; `other` are those that Redis does not know either.",
        |s, out| commands(s, out, |w, index| w.unsupported.load(index)),
    ),
    counter(
        "preshard_request_errors_total",
        &[ORIGIN, CODE],
        "Error replies to clients, by who made them and by their first word.",
        |s, out| {
            for &origin in Origin::ALL {
                for &code in ErrorCode::ALL {
                    out.count(
                        &[origin.name(), code.name()],
                        s.sum(|w| w.errors[origin][code].load()),
                    );
                }
            }
        },
    ),
    histogram(
        "preshard_request_duration_seconds",
        &[CLASS],
        "From a request's last byte read to its reply handed to the socket.",
        |s, out| {
            for &class in RequestClass::ALL {
                out.histogram(&[class.name()], &s.histogram(|w| &w.request_duration[class]));
            }
        },
    ),
    // Publish and subscribe.
    gauge(
        "preshard_pubsub_clients",
        &[],
        "Clients that have subscribed to something.",
        |s, out| {
            out.count(&[], s.sum(|w| w.pubsub_clients.load()));
        },
    ),
    gauge(
        "preshard_pubsub_channels",
        &[],
        "Channels with a subscriber, each counted once for each worker.",
        |s, out| {
            out.count(&[], s.sum(|w| w.pubsub_channels.load()));
        },
    ),
    gauge(
        "preshard_pubsub_patterns",
        &[],
        "Patterns with a subscriber, each counted once for each worker.",
        |s, out| {
            out.count(&[], s.sum(|w| w.pubsub_patterns.load()));
        },
    ),
    gauge(
        "preshard_pubsub_shard_channels",
        &[],
        "Shard channels with a subscriber, each counted once for each worker.",
        |s, out| {
            out.count(&[], s.sum(|w| w.pubsub_shard_channels.load()));
        },
    ),
    counter(
        "preshard_pubsub_messages_total",
        &[],
        "Messages heard from nodes, each counted once for each worker.",
        |s, out| {
            out.count(&[], s.sum(|w| w.pubsub_messages.load()));
        },
    ),
    counter(
        "preshard_pubsub_deliveries_total",
        &[],
        "Messages handed to clients.",
        |s, out| {
            out.count(&[], s.sum(|w| w.pubsub_deliveries.load()));
        },
    ),
    // Client-side caching.
    gauge(
        "preshard_tracking_clients",
        &[],
        "Clients with `CLIENT TRACKING ON`.",
        |s, out| {
            out.count(&[], s.sum(|w| w.tracking_clients.load()));
        },
    ),
    gauge(
        "preshard_tracking_keys",
        &[],
        "Keys that clients may have cached, each counted once for each worker.",
        |s, out| {
            out.count(&[], s.sum(|w| w.tracking_keys.load()));
        },
    ),
    gauge(
        "preshard_tracking_prefixes",
        &[],
        "Prefixes of clients that track with `BCAST`, each counted once for each worker.",
        |s, out| {
            out.count(&[], s.sum(|w| w.tracking_prefixes.load()));
        },
    ),
    gauge(
        "preshard_tracking_bytes",
        &[],
        "Memory of these keys and prefixes, about.",
        |s, out| {
            out.count(&[], s.sum(|w| w.tracking_bytes.load()));
        },
    ),
    counter(
        "preshard_tracking_invalidations_total",
        &[],
        "Invalidations sent to clients.",
        |s, out| {
            out.count(&[], s.sum(|w| w.tracking_invalidations.load()));
        },
    ),
    counter(
        "preshard_tracking_evictions_total",
        &[],
        "Keys that were invalidated to make room for others.",
        |s, out| {
            out.count(&[], s.sum(|w| w.tracking_evictions.load()));
        },
    ),
    counter(
        "preshard_fanout_parts_total",
        &[],
        "Parts that split and fan-out requests were made into.",
        |s, out| out.count(&[], s.sum(|w| w.fanout_parts.load())),
    ),
    counter(
        "preshard_popped_for_nobody_total",
        &[],
        "Replies with data to commands that waited, for clients that had left: what was taken out is lost.",
        |s, out| out.count(&[], s.sum(|w| w.popped_for_nobody.load())),
    ),
    gauge(
        "preshard_scripts",
        &[],
        "Scripts whose bodies are kept, so that they can be called by their sum.",
        |s, out| out.count(&[], s.sum(|w| w.scripts.load())),
    ),
    gauge(
        "preshard_script_bytes",
        &[],
        "Bytes of the script bodies that are kept.",
        |s, out| out.count(&[], s.sum(|w| w.script_bytes.load())),
    ),
    counter(
        "preshard_scripts_healed_total",
        &[],
        "Scripts called by their sum that a node did not know: it was told, and the client did not see it.",
        |s, out| out.count(&[], s.sum(|w| w.scripts_healed.load())),
    ),
    gauge(
        "preshard_paused_clients",
        &[],
        "Clients whose requests wait for the end of CLIENT PAUSE.",
        |s, out| out.count(&[], s.sum(|w| w.paused_clients.load())),
    ),
    gauge(
        "preshard_held_requests",
        &[],
        "Requests that wait because their shard is paused or on its way to another node.",
        |s, out| out.count(&[], s.sum(|w| w.held_requests.load())),
    ),
    counter(
        "preshard_slowlog_entries_total",
        &[],
        "Requests that took longer than [slowlog] slower_than.",
        |s, out| out.count(&[], s.sum(|w| w.slowlog_entries.load())),
    ),
    // Shards.
    counter(
        "preshard_shard_requests_total",
        &[SHARD],
        "Commands sent to each shard.",
        |s, out| {
            shards(s, out, |w, index| {
                w.shards.get(index).map_or(0, |cells| cells.requests.load())
            });
        },
    ),
    counter(
        "preshard_shard_request_bytes_total",
        &[SHARD],
        "Request bytes sent to each shard.",
        |s, out| {
            shards(s, out, |w, index| {
                w.shards.get(index).map_or(0, |cells| cells.request_bytes.load())
            });
        },
    ),
    counter(
        "preshard_shard_reply_bytes_total",
        &[SHARD],
        "Reply bytes received from each shard.",
        |s, out| {
            shards(s, out, |w, index| {
                w.shards.get(index).map_or(0, |cells| cells.reply_bytes.load())
            });
        },
    ),
    gauge(
        "preshard_shard_keys",
        &[SHARD],
        "Keys of each shard at the last probe of its node.",
        |s, out| {
            for (shard, _, _) in &s.facts.assignment().shards {
                if let Some(keys) = s.facts.shard_keys(*shard) {
                    out.count(&[&shard.to_string()], keys);
                }
            }
        },
    ),
    gauge(
        "preshard_shard_assignment",
        &[SHARD, NODE, DB],
        "Always 1; the labels say where a shard is.",
        |s, out| {
            let assignment = s.facts.assignment();
            for (shard, node, db) in &assignment.shards {
                let node = assignment.nodes.get(*node).map_or("", String::as_str);
                out.row(&[&shard.to_string(), node, &format!("db{db}")], 1.0);
            }
        },
    ),
    gauge(
        "preshard_topology_epoch",
        &[],
        "Epoch of the topology in force.",
        |s, out| {
            out.count(&[], s.facts.assignment().epoch.0);
        },
    ),
    // Nodes.
    gauge(
        "preshard_node_up",
        &[NODE],
        "1 while any worker has a working connection to the node.",
        |s, out| {
            nodes(s, out, |n| n.up.load(), |sum| sum.min(1));
        },
    ),
    gauge(
        "preshard_node_info",
        &[NODE, VERSION],
        "Always 1; the labels say what the node runs.",
        |s, out| {
            for name in &s.nodes {
                let version = s.facts.node(name).map(|facts| facts.version).unwrap_or_default();
                out.row(&[name, &version], 1.0);
            }
        },
    ),
    gauge(
        "preshard_node_used_memory_bytes",
        &[NODE],
        "The node's used_memory at the last probe.",
        |s, out| {
            for name in &s.nodes {
                out.count(
                    &[name],
                    s.facts.node(name).map_or(0, |facts| facts.used_memory_bytes),
                );
            }
        },
    ),
    gauge(
        "preshard_node_probe_duration_seconds",
        &[NODE],
        "How long the last probe took.",
        |s, out| {
            for name in &s.nodes {
                let micros = s.facts.node(name).map_or(0, |facts| facts.probe_micros);
                out.row(&[name], std::time::Duration::from_micros(micros).as_secs_f64());
            }
        },
    ),
    gauge(
        "preshard_node_connections",
        &[NODE, PROTOCOL],
        "Connections to the node open now.",
        |s, out| {
            for name in &s.nodes {
                for &wire in Wire::ALL {
                    out.count(
                        &[name, wire.name()],
                        s.node_sum(name, |n| n.connections[wire].load()),
                    );
                }
            }
        },
    ),
    gauge(
        "preshard_node_inflight_requests",
        &[NODE],
        "Commands sent whose reply is due.",
        |s, out| {
            nodes(s, out, |n| n.in_flight.load(), |sum| sum);
        },
    ),
    gauge(
        "preshard_node_queue_requests",
        &[NODE],
        "Commands that wait to be sent to the node.",
        |s, out| {
            nodes(s, out, |n| n.queue_commands.load(), |sum| sum);
        },
    ),
    gauge(
        "preshard_node_queue_bytes",
        &[NODE],
        "Bytes that wait to be sent to the node.",
        |s, out| {
            nodes(s, out, |n| n.queue_bytes.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_node_connects_total",
        &[NODE],
        "Connections made to the node.",
        |s, out| {
            nodes(s, out, |n| n.connects.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_node_connect_failures_total",
        &[NODE],
        "Connections that could not be made.",
        |s, out| {
            nodes(s, out, |n| n.connect_failures.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_node_timeouts_total",
        &[NODE],
        "Commands whose reply did not come in time.",
        |s, out| {
            nodes(s, out, |n| n.timeouts.load(), |sum| sum);
        },
    ),
    gauge(
        "preshard_node_dedicated_used",
        &[NODE],
        "Connections to each node that one client has for itself: it waits for data, or watches keys.",
        |s, out| {
            nodes(s, out, |n| n.dedicated_used.load(), |sum| sum);
        },
    ),
    gauge(
        "preshard_node_dedicated_idle",
        &[NODE],
        "Such connections that are open and that nobody has now.",
        |s, out| {
            nodes(s, out, |n| n.dedicated_idle.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_pubsub_gaps_total",
        &[NODE],
        "How often a worker lost its subscriptions on a node: what was published there until it had them again was not heard.",
        |s, out| {
            nodes(s, out, |n| n.subscription_gaps.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_tracking_gaps_total",
        &[NODE],
        "How often a worker with clients that track lost what tells it of changes on a node: they drop all they have cached.",
        |s, out| {
            nodes(s, out, |n| n.tracking_gaps.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_node_came_back_empty_total",
        &[NODE],
        "How often the node came back without its data.",
        |s, out| {
            nodes(s, out, |n| n.came_back_empty.load(), |sum| sum);
        },
    ),
    counter(
        "preshard_node_links_closed_total",
        &[NODE, LINK_CLOSE],
        "Connections to the node that ended, by reason.",
        |s, out| {
            for name in &s.nodes {
                for &reason in LinkClose::ALL {
                    out.count(
                        &[name, reason.name()],
                        s.node_sum(name, |n| n.links_closed[reason].load()),
                    );
                }
            }
        },
    ),
    histogram(
        "preshard_backend_duration_seconds",
        &[NODE],
        "From a command queued for the node to its reply read.",
        |s, out| {
            for name in &s.nodes {
                out.histogram(&[name], &s.node_histogram(name));
            }
        },
    ),
];
