//! What two processes say to each other when one takes the other's place. Pure: frames to bytes and back.
//!
//! ```text
//! frame    = kind (1 byte), descriptors that come with it (1 byte), 0 0, payload length (4 bytes), payload
//! OFFER    = version (2 bytes), then what this version says
//! client   = 0, or 1 where a PROXY header is still to come, or what one has said: 4 and 4 bytes, 6 and 16 bytes
//! CONNECTION = client, then what was read and not looked at
//! ```
//!
//! Numbers are little-endian. The frame's eight bytes, the place of the version and REFUSED stay as they are in every
//! version: so any two can tell each other that they do not fit. Descriptors travel beside the first byte of their frame
//! (`SCM_RIGHTS`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use todo_proto::change::StoreId;

use crate::http::proxy_header::Client;
use crate::limits::{HANDOVER_DESCRIPTORS_MAX, HANDOVER_FRAME_BYTES_MAX};

/// The version that this program speaks.
pub const VERSION: u16 = 2;
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The old one's first: what it serves.
    Offer(Offer),
    /// Listening sockets, as many as descriptors come with it.
    Listeners,
    /// The new one's snapshot is in memory.
    Loaded,
    /// The old one writes nothing any more, and the data file is free.
    Released(Positions),
    /// The new one could serve.
    Ready,
    /// The new one is to serve.
    Go,
    /// It is about to: it has the command socket, and accepts next.
    Serving,
    /// No client whose connection follows has seen more than this.
    Positions(Positions),
    /// A connection between two requests, with who is at its other end, and what was read and not looked at.
    Connection(Client, Box<[u8]>),
    /// It will not be, for this reason.
    Refused(String),
}

/// What the old process serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The version that it speaks.
    pub version: u16,
    /// Listening sockets that follow.
    pub listeners_count: u16,
    /// Its data file's real path, or the cluster's topic: a new one that has another would serve other todos.
    pub place: String,
    /// What it has in memory.
    pub stand: Positions,
}

/// How far a snapshot is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The store; all zero when nothing is loaded.
    pub store_id: StoreId,
    /// By partition.
    pub positions: Vec<u64>,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    kind: u8,
    /// Descriptors that come with it.
    pub descriptors_count: usize,
    /// Bytes that follow.
    pub payload_bytes: usize,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Another version.
    #[error("it speaks version {0} of the hand-over, and this program version {VERSION}: restart instead")]
    Version(u16),
    /// A bound is passed.
    #[error("a frame is too large")]
    TooLarge,
    /// Nothing that this version says.
    #[error("a frame cannot be read")]
    Unreadable,
}

const OFFER: u8 = 1;
const LISTENERS: u8 = 2;
const LOADED: u8 = 3;
const RELEASED: u8 = 4;
const READY: u8 = 5;
const GO: u8 = 6;
const POSITIONS: u8 = 7;
const CONNECTION: u8 = 8;
const SERVING: u8 = 9;
const REFUSED: u8 = 255;

impl Frame {
    /// The frame's bytes, for so many descriptors.
    ///
    /// # Errors
    /// [`ProtocolError::TooLarge`].
    pub fn encode(&self, descriptors_count: usize) -> Result<Vec<u8>, ProtocolError> {
        let mut bytes = vec![0; HEADER_BYTES];
        let kind = match self {
            Frame::Offer(offer) => {
                bytes.extend(offer.version.to_le_bytes());
                bytes.extend(offer.listeners_count.to_le_bytes());
                put_bytes(&mut bytes, offer.place.as_bytes());
                put_positions(&mut bytes, &offer.stand);
                OFFER
            }
            Frame::Listeners => LISTENERS,
            Frame::Loaded => LOADED,
            Frame::Released(positions) => {
                put_positions(&mut bytes, positions);
                RELEASED
            }
            Frame::Ready => READY,
            Frame::Go => GO,
            Frame::Serving => SERVING,
            Frame::Positions(positions) => {
                put_positions(&mut bytes, positions);
                POSITIONS
            }
            Frame::Connection(client, input) => {
                put_client(&mut bytes, *client);
                bytes.extend_from_slice(input);
                CONNECTION
            }
            Frame::Refused(why) => {
                // A reason is told even when it is long.
                bytes.extend(why.bytes().take(HANDOVER_FRAME_BYTES_MAX));
                REFUSED
            }
        };
        let payload_bytes = bytes.len() - HEADER_BYTES;
        if payload_bytes > HANDOVER_FRAME_BYTES_MAX || descriptors_count > HANDOVER_DESCRIPTORS_MAX {
            return Err(ProtocolError::TooLarge);
        }
        bytes[0] = kind;
        bytes[1] = descriptors_count as u8;
        bytes[4..HEADER_BYTES].copy_from_slice(&(payload_bytes as u32).to_le_bytes());
        Ok(bytes)
    }

    /// The frame with this payload.
    ///
    /// # Errors
    /// [`ProtocolError`].
    pub fn decode(header: Header, payload: &[u8]) -> Result<Frame, ProtocolError> {
        let mut rest = payload;
        let frame = match header.kind {
            OFFER => {
                let version = u16::from_le_bytes(take(&mut rest)?);
                if version != VERSION {
                    return Err(ProtocolError::Version(version));
                }
                let listeners_count = u16::from_le_bytes(take(&mut rest)?);
                let place = String::from_utf8(take_bytes(&mut rest)?.to_vec());
                let place = place.map_err(|_| ProtocolError::Unreadable)?;
                Frame::Offer(Offer { version, listeners_count, place, stand: take_positions(&mut rest)? })
            }
            LISTENERS => Frame::Listeners,
            LOADED => Frame::Loaded,
            RELEASED => Frame::Released(take_positions(&mut rest)?),
            READY => Frame::Ready,
            GO => Frame::Go,
            SERVING => Frame::Serving,
            POSITIONS => Frame::Positions(take_positions(&mut rest)?),
            CONNECTION => {
                let client = take_client(&mut rest)?;
                Frame::Connection(client, std::mem::take(&mut rest).into())
            }
            REFUSED => Frame::Refused(String::from_utf8_lossy(std::mem::take(&mut rest)).into_owned()),
            _ => return Err(ProtocolError::Unreadable),
        };
        if rest.is_empty() { Ok(frame) } else { Err(ProtocolError::Unreadable) }
    }
}

impl Header {
    /// The header in these bytes.
    ///
    /// # Errors
    /// [`ProtocolError::TooLarge`]: nothing of the payload need be read.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Header, ProtocolError> {
        let [kind, descriptors_count, _, _, length @ ..] = bytes;
        let header = Header {
            kind,
            descriptors_count: usize::from(descriptors_count),
            payload_bytes: u32::from_le_bytes(length) as usize,
        };
        let is_within =
            header.payload_bytes <= HANDOVER_FRAME_BYTES_MAX && header.descriptors_count <= HANDOVER_DESCRIPTORS_MAX;
        if is_within { Ok(header) } else { Err(ProtocolError::TooLarge) }
    }
}

impl Positions {
    /// Whether a snapshot of `store_id` at `positions` contains everything that is meant.
    pub fn are_reached_by(&self, store_id: &StoreId, positions: &[u64]) -> bool {
        let is_nothing = self.positions.is_empty();
        is_nothing
            || self.store_id == *store_id
                && self.positions.len() == positions.len()
                && self.positions.iter().zip(positions).all(|(meant, has)| meant <= has)
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    // Longer ones do not fit a frame, which `encode` sees.
    out.extend((bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_client(out: &mut Vec<u8>, client: Client) {
    match client {
        Client::Direct => out.push(0),
        Client::Awaited => out.push(1),
        Client::Named(IpAddr::V4(address)) => {
            out.push(4);
            out.extend(address.octets());
        }
        Client::Named(IpAddr::V6(address)) => {
            out.push(6);
            out.extend(address.octets());
        }
    }
}

fn put_positions(out: &mut Vec<u8>, positions: &Positions) {
    out.extend_from_slice(&positions.store_id);
    out.extend((positions.positions.len() as u32).to_le_bytes());
    out.extend(positions.positions.iter().flat_map(|position| position.to_le_bytes()));
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], ProtocolError> {
    let (taken, behind) = rest.split_first_chunk().ok_or(ProtocolError::Unreadable)?;
    *rest = behind;
    Ok(*taken)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ProtocolError> {
    let count = u32::from_le_bytes(take(rest)?) as usize;
    let (taken, behind) = rest.split_at_checked(count).ok_or(ProtocolError::Unreadable)?;
    *rest = behind;
    Ok(taken)
}

fn take_client(rest: &mut &[u8]) -> Result<Client, ProtocolError> {
    match take(rest)? {
        [0] => Ok(Client::Direct),
        [1] => Ok(Client::Awaited),
        [4] => Ok(Client::Named(Ipv4Addr::from(take::<4>(rest)?).into())),
        [6] => Ok(Client::Named(Ipv6Addr::from(take::<16>(rest)?).into())),
        [_] => Err(ProtocolError::Unreadable),
    }
}

fn take_positions(rest: &mut &[u8]) -> Result<Positions, ProtocolError> {
    let store_id = take(rest)?;
    let count = u32::from_le_bytes(take(rest)?) as usize;
    let positions = (0..count).map(|_| take(rest).map(u64::from_le_bytes)).collect::<Result<_, _>>()?;
    Ok(Positions { store_id, positions })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions() -> Positions {
        Positions { store_id: [7; 16], positions: vec![0, 1, u64::MAX] }
    }

    fn frames() -> Vec<Frame> {
        let offer = Offer { version: VERSION, listeners_count: 3, place: "/data/todos.db".into(), stand: positions() };
        vec![
            Frame::Offer(offer),
            Frame::Listeners,
            Frame::Loaded,
            Frame::Released(positions()),
            Frame::Ready,
            Frame::Go,
            Frame::Serving,
            Frame::Positions(Positions::default()),
            Frame::Connection(Client::Direct, Box::default()),
            Frame::Connection(Client::Direct, b"GET /todos HT".as_slice().into()),
            Frame::Connection(Client::Awaited, b"PROXY TC".as_slice().into()),
            Frame::Connection(client("192.0.2.7"), b"GET /todos HT".as_slice().into()),
            Frame::Connection(client("2001:db8::7"), Box::default()),
            Frame::Refused("no".to_owned()),
        ]
    }

    fn client(address: &str) -> Client {
        Client::Named(address.parse().expect("an address"))
    }

    fn decode(bytes: &[u8]) -> Result<Frame, ProtocolError> {
        let (header, payload) = bytes.split_first_chunk().ok_or(ProtocolError::Unreadable)?;
        let header = Header::decode(*header)?;
        assert_eq!(header.payload_bytes, payload.len());
        Frame::decode(header, payload)
    }

    #[test]
    fn what_is_said_is_understood() {
        for frame in frames() {
            let bytes = frame.encode(2).expect("it is small");
            assert_eq!(Header::decode(*bytes.first_chunk().expect("a header")).expect("read").descriptors_count, 2);
            assert_eq!(decode(&bytes), Ok(frame));
        }
    }

    /// A frame that is cut, or has more than it should, is not taken for a shorter one.
    #[test]
    fn another_length_is_unreadable() {
        for frame in frames() {
            let is_open = matches!(frame, Frame::Connection(..) | Frame::Refused(_));
            let bytes = frame.encode(0).expect("it is small");
            let header = Header::decode(*bytes.first_chunk().expect("a header")).expect("read");
            let payload = &bytes[HEADER_BYTES..];
            for length in (0..payload.len()).filter(|_| !is_open) {
                assert!(Frame::decode(header, &payload[..length]).is_err(), "{frame:?} cut to {length}");
            }
            let longer = [payload, b"x"].concat();
            assert_eq!(Frame::decode(header, &longer).is_ok(), is_open, "{frame:?} with more");
        }
    }

    #[test]
    fn another_version_is_named() {
        let Frame::Offer(offer) = frames().remove(0) else { unreachable!("it stands first") };
        let mut bytes = Frame::Offer(Offer { version: 9, ..offer }).encode(0).expect("it is small");
        // What stands behind the version may be anything.
        bytes.truncate(HEADER_BYTES + 2);
        bytes[4] = 2;
        bytes[5..HEADER_BYTES].fill(0);
        assert_eq!(decode(&bytes), Err(ProtocolError::Version(9)));
    }

    #[test]
    fn bounds() {
        let most = Frame::Connection(Client::Direct, vec![b'x'; HANDOVER_FRAME_BYTES_MAX - 1].into());
        assert!(most.encode(HANDOVER_DESCRIPTORS_MAX).is_ok());
        assert_eq!(most.encode(HANDOVER_DESCRIPTORS_MAX + 1), Err(ProtocolError::TooLarge));
        let more = Frame::Connection(Client::Direct, vec![b'x'; HANDOVER_FRAME_BYTES_MAX].into());
        assert_eq!(more.encode(1), Err(ProtocolError::TooLarge));
        let mut header = [0; HEADER_BYTES];
        header[4..].copy_from_slice(&(HANDOVER_FRAME_BYTES_MAX as u32 + 1).to_le_bytes());
        assert_eq!(Header::decode(header), Err(ProtocolError::TooLarge));
        assert_eq!(Header::decode([1, 255, 0, 0, 0, 0, 0, 0]), Err(ProtocolError::TooLarge));
        // A count that promises more than there is takes no memory for it.
        let header = Header::decode([POSITIONS, 0, 0, 0, 20, 0, 0, 0]).expect("a header");
        assert_eq!(Frame::decode(header, &[255; 20]), Err(ProtocolError::Unreadable));
    }

    /// Where an address should stand and is cut, or something else stands, no input is taken for it.
    #[test]
    fn a_client_is_whole_or_unreadable() {
        let table: [(&[u8], bool); 9] = [
            (&[], false),
            (&[0], true),
            (&[1], true),
            (&[2], false),
            (&[4, 192, 0, 2], false),
            (&[4, 192, 0, 2, 7], true),
            (&[6; 16], false),
            (&[6; 17], true),
            (&[255; 20], false),
        ];
        for (payload, is_whole) in table {
            let header = Header::decode([CONNECTION, 0, 0, 0, payload.len() as u8, 0, 0, 0]).expect("a header");
            assert_eq!(Frame::decode(header, payload).is_ok(), is_whole, "{payload:?}");
        }
    }

    #[test]
    fn positions_are_reached_in_every_partition_of_the_same_store() {
        let meant = Positions { store_id: [1; 16], positions: vec![3, 5] };
        let table: [([u8; 16], &[u64], bool); 5] = [
            ([1; 16], &[3, 5], true),
            ([1; 16], &[9, 5], true),
            ([1; 16], &[9, 4], false),
            ([1; 16], &[3, 5, 0], false),
            ([2; 16], &[3, 5], false),
        ];
        for (store_id, positions, is_reached) in table {
            assert_eq!(meant.are_reached_by(&store_id, positions), is_reached, "{store_id:?} {positions:?}");
        }
    }
}
