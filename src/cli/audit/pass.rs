//! One client's bytes, to the server and back, unchanged and first of all; what it sent is judged when it is on its way.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Scene;
use crate::audit::AuditedClient;
use crate::topology::Address;
use crate::worker::Accepted;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(60);
/// For each direction of each client.
const BUFFER: usize = 16 * 1024;

/// A socket of either kind.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

/// A client's place in the audit; however its task ends, what it had begun is counted.
struct Seat {
    scene: Rc<Scene>,
    client: Option<AuditedClient>,
}

impl Seat {
    fn take(scene: Rc<Scene>) -> Self {
        let client = Some(scene.audit.borrow_mut().connect());
        Self { scene, client }
    }

    fn read(&mut self, bytes: &[u8]) {
        if let Some(client) = &mut self.client {
            self.scene.audit.borrow_mut().read(client, bytes);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(client) = self.client.take() {
            self.scene.audit.borrow_mut().disconnect(client);
        }
    }
}

/// Serves one client until either side is gone.
pub(super) async fn pass(socket: Accepted, scene: Rc<Scene>) {
    let sockets = match adopt(socket) {
        Ok(client) => connect(&scene.node).await.map(|node| (client, node)),
        Err(error) => Err(error),
    };
    let Ok((client, node)) = sockets else {
        // The client is closed, as it would be by a server that cannot take it.
        scene.unconnected.set(scene.unconnected.get() + 1);
        return;
    };
    let mut seat = Seat::take(scene);
    let (from_client, to_client) = split(client);
    let (from_node, to_node) = split(node);
    // An error means that a side is gone; the other one is closed with it.
    let _ = tokio::try_join!(
        forward(from_client, to_node, |bytes| seat.read(bytes)),
        forward(from_node, to_client, |_| {}),
    );
}

/// Passes bytes on as they come, and the end of them.
async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut sent: impl FnMut(&[u8]),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..read]).await?;
        sent(&buffer[..read]);
    }
}

/// Connects to the server.
pub(super) async fn connect(address: &Address) -> io::Result<Box<dyn Duplex>> {
    let connecting = async {
        Ok(match address {
            Address::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                prepare(&stream)?;
                Box::new(stream) as Box<dyn Duplex>
            }
            Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    };
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn adopt(socket: Accepted) -> io::Result<Box<dyn Duplex>> {
    Ok(match socket {
        Accepted::Tcp(stream) => {
            let stream = TcpStream::from_std(stream)?;
            prepare(&stream)?;
            Box::new(stream)
        }
        Accepted::Unix(stream) => Box::new(UnixStream::from_std(stream)?),
    })
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}
