//! A client just large enough to see whether a subject answers, to fill it, and to hold idle connections.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use crate::Result;
use crate::case::{SMALL, Values};

/// Bytes of requests in flight while filling: enough to be quick, too little to fill both socket buffers.
const FILL_BATCH_BYTES: usize = 64 * 1024;
/// Every so many keys one is read back.
const READ_BACK_STEP: usize = 50;
/// Connections opened before one of them is served: below every subject's backlog.
const ACCEPT_BATCH: u32 = 100;
/// A reply that takes longer than this is a failure of the subject.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether something answers `PING` properly on that port.
pub(crate) fn answers_ping(port: u16) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = connect(port)?;
        stream.write_all(b"*1\r\n$4\r\nPING\r\n")?;
        let mut reply = [0; 7];
        stream.read_exact(&mut reply)?;
        Ok(reply.to_vec())
    };
    ask().is_ok_and(|reply| reply == b"+PONG\r\n")
}

/// Writes every key of the family through that port, and reads some back.
///
/// # Errors
/// The connection, or any reply but `+OK` and the value.
pub(crate) fn fill(port: u16, values: &Values) -> Result<()> {
    let mut stream = connect(port)?;
    let mut batch = Vec::new();
    let mut waiting = 0;
    for number in 0..values.keys {
        let key = key(values, number);
        write!(
            batch,
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${}\r\n",
            key.len(),
            values.bytes
        )?;
        batch.resize(batch.len() + values.bytes, b'x');
        batch.extend_from_slice(b"\r\n");
        waiting += 1;
        if batch.len() >= FILL_BATCH_BYTES || number + 1 == values.keys {
            stream.write_all(&batch)?;
            expect(&mut stream, &b"+OK\r\n".repeat(waiting))?;
            batch.clear();
            waiting = 0;
        }
    }
    // A subject that loses keys would answer nil, which is quick and no error.
    for number in (0..values.keys).step_by(READ_BACK_STEP) {
        ask_value(&mut stream, values, number)?;
        expect_value(&mut stream, values)?;
    }
    Ok(())
}

/// Opens that many connections, has one GET answered on each, and returns them open and idle.
///
/// # Errors
/// A connection that cannot be opened, or a reply that is not the value.
pub(crate) fn hold_idle(port: u16, count: u32) -> Result<Vec<TcpStream>> {
    let mut held = Vec::new();
    for opened in 1..=count {
        let explain = |error| format!("connection {opened} of {count}: {error}");
        let mut stream = connect(port).map_err(explain)?;
        if opened % ACCEPT_BATCH == 0 {
            // Connections are accepted in order: once the last is served, no earlier one waits in the backlog.
            ask_value(&mut stream, &SMALL, opened)?;
            expect_value(&mut stream, &SMALL)?;
        }
        held.push(stream);
    }
    for (number, stream) in (0..).zip(&mut held) {
        ask_value(stream, &SMALL, number)?;
    }
    for stream in &mut held {
        expect_value(stream, &SMALL)?;
    }
    Ok(held)
}

fn ask_value(stream: &mut TcpStream, values: &Values, number: u32) -> Result<()> {
    let key = key(values, number % values.keys);
    let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
    Ok(stream.write_all(request.as_bytes())?)
}

fn expect_value(stream: &mut TcpStream, values: &Values) -> Result<()> {
    expect(
        stream,
        format!("${}\r\n{}\r\n", values.bytes, "x".repeat(values.bytes)).as_bytes(),
    )
}

/// The key that redis-benchmark makes of `<prefix>__rand_int__`.
fn key(values: &Values, number: u32) -> String {
    format!("{}{number:012}", values.prefix)
}

fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    Ok(stream)
}

/// Reads exactly those bytes. Another reply fails at its first byte: an error line may be shorter than what is
/// expected, and waiting for the rest of it would hide it behind a timeout.
fn expect(stream: &mut TcpStream, wanted: &[u8]) -> Result<()> {
    let mut reply = vec![0; wanted.len()];
    let mut have = 0;
    while have < wanted.len() {
        let read = stream.read(&mut reply[have..])?;
        if read == 0 {
            return Err("the subject closed the connection instead of answering".into());
        }
        have += read;
        if let Some(wrong) = (0..have).find(|&at| reply[at] != wanted[at]) {
            let line = reply[..have]
                .split(|&byte| byte == b'\r')
                .find(|line| line.starts_with(b"-"));
            let seen = String::from_utf8_lossy(line.unwrap_or_else(|| &reply[wrong..have]));
            return Err(format!("unexpected answer {seen:?}").into());
        }
    }
    Ok(())
}
