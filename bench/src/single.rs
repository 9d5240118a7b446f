//! One request at a time on a blocking connection: captures, metrics, readiness, write-then-read pairs.

use crate::error::{Context, Error, Result};
use crate::limits::{SINGLE_REQUEST_TIMEOUT, SINGLE_RESPONSE_BYTES_MAX};
use crate::request;
use crate::scan::{Head, parse_head};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

/// A kept-alive connection with nothing in flight.
pub struct SingleClient {
    socket: TcpStream,
    authority: String,
}

/// A complete response.
pub struct Response {
    /// What the head says.
    pub head: Head,
    /// Head and body as they came.
    pub bytes: Vec<u8>,
}

impl Response {
    /// The body.
    pub fn body(&self) -> &[u8] {
        &self.bytes[self.head.head_bytes..]
    }
}

impl SingleClient {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Result<SingleClient> {
        let connect = || {
            let socket = TcpStream::connect_timeout(&address, SINGLE_REQUEST_TIMEOUT)?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(SINGLE_REQUEST_TIMEOUT))?;
            socket.set_write_timeout(Some(SINGLE_REQUEST_TIMEOUT))?;
            Ok::<_, std::io::Error>(socket)
        };
        let socket = connect().context(format!("connecting to {address}"))?;
        Ok(SingleClient { socket, authority: address.to_string() })
    }

    /// GET, whatever the status.
    pub fn get(&mut self, target: &str) -> Result<Response> {
        let request = request::get(&self.authority, target);
        self.send(&request)
    }

    /// GET that must be answered 200.
    pub fn get_ok(&mut self, target: &str) -> Result<Response> {
        let response = self.get(target)?;
        match response.head.status {
            200 => Ok(response),
            status => Err(Error::Unusable(format!("GET {target} was answered {status}"))),
        }
    }

    /// Sends a complete request and reads its response to the end.
    pub fn send(&mut self, request: &[u8]) -> Result<Response> {
        self.socket.write_all(request).context("sending a request")?;
        let (mut bytes, mut chunk) = (Vec::new(), [0; 16 * 1024]);
        let mut head = None;
        loop {
            head = match head {
                Some(head) => Some(head),
                None if bytes.is_empty() => None,
                None => parse_head(&bytes).map_err(|fault| Error::Unusable(fault.to_string()))?,
            };
            if let Some(head @ Head { head_bytes, body_bytes, .. }) = head {
                let response_bytes = head_bytes.saturating_add(body_bytes);
                if response_bytes > SINGLE_RESPONSE_BYTES_MAX || bytes.len() > response_bytes {
                    return Err(Error::Unusable(format!("{} bytes came for {response_bytes}", bytes.len())));
                }
                if bytes.len() == response_bytes {
                    return Ok(Response { head, bytes });
                }
            }
            match self.socket.read(&mut chunk).context("reading a response")? {
                0 => return Err(Error::Unusable("the server closed within a response".into())),
                count => bytes.extend_from_slice(&chunk[..count]),
            }
        }
    }
}
