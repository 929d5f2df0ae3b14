//! A TLS connection over a real socket whose other side does not read.

use std::io::{ErrorKind, Read as _};
use std::net::{TcpListener, TcpStream as Socket};
use std::sync::Arc;

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use socket2::SockRef;

use crate::worker::outbuf::{OutBuf, Spares};
use crate::worker::stream::{Accepted, Stream};
use crate::worker::testing::in_runtime;

/// The other side: reads only when it is told to.
#[derive(Debug)]
pub(in crate::worker) struct Reader {
    socket: Socket,
    session: ServerConnection,
}

impl Reader {
    /// Reads what has come in whole records, and says how many plain bytes that were.
    pub(in crate::worker) fn read(&mut self) -> usize {
        match self.session.read_tls(&mut self.socket) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => panic!("{error}"),
        }
        self.session.process_new_packets().unwrap();
        let mut plain = Vec::new();
        let _ = self.session.reader().read_to_end(&mut plain);
        plain.len()
    }
}

fn shake_hands(session: &mut impl FnMut(&mut Socket) -> bool, socket: &mut Socket) {
    while session(socket) {}
}

/// A connection with little room in its sockets, as the worker has it, and the other side.
pub(in crate::worker) async fn stalled() -> (Stream, Reader) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = CertificateDer::from(params.self_signed(&key).unwrap().der().to_vec());
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).unwrap();
    let client = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .unwrap();
    let mut session = ServerConnection::new(Arc::new(server)).unwrap();

    let mut own =
        ClientConnection::new(Arc::new(client), ServerName::try_from("localhost").unwrap()).unwrap();

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(64 * 1024).unwrap();
    let mut near = Socket::connect(listener.local_addr().unwrap()).unwrap();
    SockRef::from(&near).set_send_buffer_size(64 * 1024).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut step = |socket: &mut Socket| {
                session.complete_io(socket).unwrap();
                session.is_handshaking() || session.wants_write()
            };
            shake_hands(&mut step, &mut far);
        });
        let mut step = |socket: &mut Socket| {
            own.complete_io(socket).unwrap();
            own.is_handshaking() || own.wants_write()
        };
        shake_hands(&mut step, &mut near);
    });
    far.set_nonblocking(true).unwrap();
    let stream = Stream::adopt(Accepted::Tcp(near), Some(Box::new(own.into()))).unwrap();
    std::future::poll_fn(|cx| stream.poll_write_ready(cx))
        .await
        .unwrap();
    (stream, Reader { socket: far, session })
}

#[test]
fn what_is_not_counted_as_written_and_may_be_out_is_owed() {
    in_runtime(async {
        let (mut stream, mut reader) = stalled().await;
        let (mut out, mut spares) = (OutBuf::default(), Spares::default());
        let bytes = vec![b'x'; 4_000_000];
        out.push(&bytes, &mut spares);
        assert_eq!(stream.owed(), 0);
        let mut read = 0;
        while read < bytes.len() {
            let all_out = out.write_to(&mut stream, &mut spares).unwrap();
            assert_eq!(all_out, out.is_empty());
            read += reader.read();
            let never_left = out.len() - stream.owed();
            assert!(
                read <= bytes.len() - never_left,
                "{read} came, {never_left} never left"
            );
            // The runtime looks whether the socket takes more.
            tokio::task::yield_now().await;
        }
        assert_eq!(stream.owed(), 0, "all is written and counted");
    });
}
