//! `preshard admin WORDS…`: the admin listener from a shell, with tables for people and JSON for machines.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use rustls::{ClientConnection, StreamOwned};

use super::{json, render};
use crate::resp::{self, DecodeLimits, ReplyScanner, Value};
use crate::tls::{ClientSide, TlsError};
use crate::topology::Address;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// `CHECK` waits for nodes one after the other.
const REPLY_TIMEOUT: Duration = Duration::from_secs(120);
/// A table of all shards and many clients is a few MiB.
const REPLY_BYTES_MAX: usize = 64 * 1024 * 1024;
const PASSWORD_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(super) struct Admin {
    #[arg(
        help = "The admin listener: host:port, [v6]:port or unix:/path",
        long,
        value_name = "ADDRESS",
        env = "PRESHARD_ADMIN",
        default_value = "127.0.0.1:6381"
    )]
    addr: Address,
    /// The user to be; it needs the right admin or monitor
    #[arg(long, value_name = "NAME", default_value = "default")]
    user: String,
    /// File whose first line is the password of the admin listener, or of the user
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Speak TLS, to [admin] listen_tls
    #[arg(long)]
    tls: bool,
    /// PEM file with the authorities that the proxy's certificate must come from
    #[arg(long, value_name = "FILE", requires = "tls")]
    cacert: Option<PathBuf>,
    /// PEM file with the certificate to show, where the proxy requires one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// PEM file with the key of that certificate
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// Take any certificate of the proxy: whoever stands between can read and change everything
    #[arg(long, requires = "tls", conflicts_with = "cacert")]
    insecure: bool,
    /// Print the answer as JSON
    #[arg(long)]
    pub(super) json: bool,
    /// What follows PRESHARD, such as SHOW SHARDS; without any, HELP
    #[arg(trailing_var_arg = true)]
    pub(super) words: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    #[error("cannot read the password file {}: {error}", path.display())]
    Password { path: PathBuf, error: io::Error },
    #[error(
        "cannot reach the admin listener at {address}: {error}; is the proxy running, and is [admin] listen that address?"
    )]
    Unreachable { address: Address, error: io::Error },
    #[error("{0}")]
    Tls(#[from] TlsError),
    #[error("--tls needs --cacert FILE, or --insecure to trust whoever answers")]
    NoAuthorities,
    #[error("{address} did not answer as a RESP server does")]
    NotRedis { address: Address },
}

impl AdminError {
    const fn exit_status(&self) -> u8 {
        match self {
            Self::Password { .. } | Self::Tls(_) | Self::NoAuthorities => 2,
            Self::Unreachable { .. } | Self::NotRedis { .. } => 3,
        }
    }
}

pub(super) fn admin(admin: &Admin) -> u8 {
    let value = match ask(admin) {
        Ok(value) => value,
        Err(error) => {
            eprintln!("{error}");
            return error.exit_status();
        }
    };
    let failed = matches!(value, Value::Error(_));
    let printed = if admin.json {
        format!("{:#}\n", json::value(&value))
    } else {
        render::value(&value)
    };
    if failed && !admin.json {
        eprint!("{printed}");
        if printed.starts_with("NOAUTH") {
            eprintln!("name the file with its password: preshard admin --password-file FILE …");
        }
    } else {
        // Whoever closed the pipe has read enough.
        let _ = io::stdout().lock().write_all(printed.as_bytes());
    }
    u8::from(failed)
}

/// Logs in and asks. An error reply of either is the answer.
fn ask(admin: &Admin) -> Result<Value, AdminError> {
    let password = admin.password_file.as_deref().map(read_password).transpose()?;
    let failed = |error| AdminError::Unreachable {
        address: admin.addr.clone(),
        error,
    };
    let tls = client_side(admin)?;
    let mut link = Link::connect(&admin.addr, tls.as_ref()).map_err(failed)?;
    let mut hello: Vec<&[u8]> = vec![b"HELLO", b"3"];
    if let Some(password) = &password {
        hello.extend([&b"AUTH"[..], admin.user.as_bytes(), password.as_bytes()]);
    }
    let greeting = link.exchange(&hello, &admin.addr)?;
    if matches!(greeting, Value::Error(_)) {
        return Ok(greeting);
    }
    let mut words: Vec<&[u8]> = vec![b"PRESHARD"];
    if admin.words.is_empty() {
        words.push(b"HELP");
    }
    words.extend(admin.words.iter().map(String::as_bytes));
    link.exchange(&words, &admin.addr)
}

/// How TLS is spoken, if it is.
fn client_side(admin: &Admin) -> Result<Option<ClientSide>, AdminError> {
    if !admin.tls {
        return Ok(None);
    }
    let own = admin.cert.clone().zip(admin.key.clone());
    let side = match &admin.cacert {
        Some(ca) => ClientSide::read(ca, own.as_ref(), None)?,
        None if admin.insecure => ClientSide::trusting_anybody(own.as_ref())?,
        None => return Err(AdminError::NoAuthorities),
    };
    Ok(Some(side))
}

fn read_password(path: &Path) -> Result<String, AdminError> {
    let failed = |error| AdminError::Password {
        path: path.to_owned(),
        error,
    };
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(PASSWORD_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// A blocking connection: one question at a time.
enum Link {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    fn connect(address: &Address, tls: Option<&ClientSide>) -> io::Result<Self> {
        match address {
            Address::Tcp { host, port } => {
                let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
                for address in (host.as_str(), *port).to_socket_addrs()? {
                    match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
                            stream.set_nodelay(true)?;
                            return Ok(match tls {
                                None => Self::Tcp(stream),
                                Some(tls) => {
                                    Self::Tls(Box::new(StreamOwned::new(tls.connection(host)?, stream)))
                                }
                            });
                        }
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
                Ok(Self::Unix(stream))
            }
        }
    }

    fn exchange(&mut self, words: &[&[u8]], address: &Address) -> Result<Value, AdminError> {
        let failed = |error| AdminError::Unreachable {
            address: address.clone(),
            error,
        };
        let mut frame = Vec::new();
        resp::write_request(&mut frame, words);
        self.write_all(&frame).map_err(failed)?;
        let mut scanner = ReplyScanner::default();
        let (mut reply, mut chunk) = (Vec::new(), vec![0; 64 * 1024]);
        loop {
            let read = self.read(&mut chunk).map_err(failed)?;
            if read == 0 {
                return Err(failed(io::ErrorKind::UnexpectedEof.into()));
            }
            reply.extend_from_slice(&chunk[..read]);
            match scanner.feed(&chunk[..read]) {
                Ok(Some(end)) if end == read => break,
                Ok(None) if reply.len() <= REPLY_BYTES_MAX => {}
                Ok(_) | Err(_) => {
                    return Err(AdminError::NotRedis {
                        address: address.clone(),
                    });
                }
            }
        }
        let limits = DecodeLimits {
            bytes: REPLY_BYTES_MAX,
            ..DecodeLimits::default()
        };
        resp::decode(&reply, limits).map_err(|_| AdminError::NotRedis {
            address: address.clone(),
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes),
        }
    }

    fn read(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(chunk),
            Self::Unix(stream) => stream.read(chunk),
            Self::Tls(stream) => stream.read(chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Answers each read with the next of `replies`; gives back all that was read.
    fn server(replies: &'static [&'static [u8]]) -> (Address, std::thread::JoinHandle<Vec<u8>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let (mut seen, mut chunk) = (Vec::new(), [0; 1024]);
            for reply in replies {
                let read = socket.read(&mut chunk).unwrap();
                seen.extend_from_slice(&chunk[..read]);
                socket.write_all(reply).unwrap();
            }
            seen
        });
        (address, serving)
    }

    fn asking(addr: Address, words: &[&str]) -> Admin {
        Admin {
            user: "default".to_owned(),
            addr,
            password_file: None,
            tls: false,
            cacert: None,
            cert: None,
            key: None,
            insecure: false,
            json: false,
            words: words.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn words_are_sent_after_hello_and_the_reply_is_read() {
        let (address, serving) = server(&[b"%1\r\n$5\r\nproto\r\n:3\r\n", b":7\r\n"]);
        assert_eq!(
            ask(&asking(address, &["TOPOLOGY", "EPOCH"])).unwrap(),
            Value::Int(7)
        );
        let seen = serving.join().unwrap();
        assert_eq!(
            seen,
            b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n*3\r\n$8\r\nPRESHARD\r\n$8\r\nTOPOLOGY\r\n$5\r\nEPOCH\r\n"
        );
    }

    #[test]
    fn exit_statuses_tell_what_went_wrong() {
        let (address, serving) = server(&[b"-NOAUTH HELLO must be called\r\n"]);
        assert_eq!(admin(&asking(address, &["VERSION"])), 1);
        serving.join().unwrap();
        let nobody: Address = "unix:/nonexistent/admin".parse().unwrap();
        assert_eq!(admin(&asking(nobody, &["VERSION"])), 3);
        let (address, serving) = server(&[b"HTTP/1.1 400 Bad Request\r\n"]);
        assert_eq!(admin(&asking(address.clone(), &["VERSION"])), 3);
        serving.join().unwrap();
        let no_file = Admin {
            password_file: Some("/nonexistent".into()),
            ..asking(address, &["VERSION"])
        };
        assert_eq!(admin(&no_file), 2);
    }
}
