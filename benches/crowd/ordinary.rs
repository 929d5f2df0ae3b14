//! The ordinary load: single-key requests at a fixed rate, each timed from the moment at which it was due.

use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Result;
use crate::rig::Rig;

const CONNECTIONS: u32 = 20;
/// Clients that ask a node directly, each as often as one of the others.
const DIRECT: u32 = 2;
const KEYS: u32 = 1_000;
const VALUE: &str = "0123456789012345678901234567890123456789012345678901234567890123";

/// What was measured, in microseconds, in order of size.
#[derive(Debug)]
pub(crate) struct Latencies {
    pub(crate) proxy: Vec<u64>,
    pub(crate) direct: Vec<u64>,
}

/// Writes the keys that will be read: through the proxy, and on the node that is asked directly.
pub(crate) fn fill(rig: &Rig) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        for (port, database) in [(rig.port, 0), (rig.node_port, 14)] {
            let mut stream = connect(port, database).await?;
            for number in 0..KEYS {
                call(&mut stream, &set(number), "+OK\r\n").await?;
            }
        }
        Ok(())
    })
}

/// The load for `length`.
pub(crate) fn run(rig: &Rig, load: u32, length: Duration) -> Result<Latencies> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let pace = Duration::from_secs(1) * CONNECTIONS / load;
    runtime.block_on(async {
        let mut clients: JoinSet<Result<(bool, Vec<u64>)>> = JoinSet::new();
        let start = Instant::now() + Duration::from_millis(50);
        for number in 0..CONNECTIONS + DIRECT {
            let direct = number >= CONNECTIONS;
            let (port, database) = if direct {
                (rig.node_port, 14)
            } else {
                (rig.port, 0)
            };
            // Not all at the same moment.
            let first = start + pace * number / CONNECTIONS;
            clients.spawn(
                async move { Ok((direct, client(port, database, number, first, pace, length).await?)) },
            );
        }
        let mut latencies = Latencies {
            proxy: Vec::new(),
            direct: Vec::new(),
        };
        while let Some(client) = clients.join_next().await {
            let (direct, measured) = client.map_err(|error| error.to_string())??;
            if direct {
                &mut latencies.direct
            } else {
                &mut latencies.proxy
            }
            .extend(measured);
        }
        latencies.proxy.sort_unstable();
        latencies.direct.sort_unstable();
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(latencies)
    })
}

async fn client(
    port: u16,
    database: u32,
    number: u32,
    first: Instant,
    pace: Duration,
    length: Duration,
) -> Result<Vec<u64>> {
    let mut stream = connect(port, database).await?;
    let value = format!("${}\r\n{VALUE}\r\n", VALUE.len());
    let mut measured = Vec::new();
    let mut due = first;
    for turn in 0_u32.. {
        if due >= first + length {
            break;
        }
        tokio::time::sleep_until(due).await;
        let key = turn.wrapping_mul(7919).wrapping_add(number * 31) % KEYS;
        if turn % 4 == 0 {
            call(&mut stream, &set(key), "+OK\r\n").await?;
        } else {
            call(
                &mut stream,
                &format!("*2\r\n$3\r\nGET\r\n$8\r\nkey:{key:04}\r\n"),
                &value,
            )
            .await?;
        }
        measured.push(u64::try_from(due.elapsed().as_micros())?);
        due += pace;
    }
    Ok(measured)
}

fn set(number: u32) -> String {
    format!(
        "*3\r\n$3\r\nSET\r\n$8\r\nkey:{number:04}\r\n${}\r\n{VALUE}\r\n",
        VALUE.len()
    )
}

async fn connect(port: u16, database: u32) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    if database > 0 {
        let database = database.to_string();
        let select = format!("*2\r\n$6\r\nSELECT\r\n${}\r\n{database}\r\n", database.len());
        call(&mut stream, &select, "+OK\r\n").await?;
    }
    Ok(stream)
}

async fn call(stream: &mut TcpStream, request: &str, wanted: &str) -> Result<()> {
    stream.write_all(request.as_bytes()).await?;
    let mut reply = vec![0; wanted.len()];
    stream.read_exact(&mut reply).await?;
    if reply == wanted.as_bytes() {
        return Ok(());
    }
    Err(format!("unexpected answer {:?}", String::from_utf8_lossy(&reply)).into())
}
