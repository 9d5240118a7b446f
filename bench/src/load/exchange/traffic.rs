//! What is sent: one request or several, each with what its answer must be.

use crate::error::{Error, Result};
use crate::limits::{MIX_REQUESTS_MAX, MIX_WEIGHT_MAX};
use std::fmt;
use std::str::FromStr;

/// The status that an answer must have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StatusExpected {
    /// 200 to 299.
    #[default]
    Success,
    /// This one.
    Exactly(u16),
}

impl StatusExpected {
    /// Whether an answer of this status is a good one.
    pub fn accepts(self, status: u16) -> bool {
        match self {
            StatusExpected::Success => (200..300).contains(&status),
            StatusExpected::Exactly(expected) => status == expected,
        }
    }
}

impl FromStr for StatusExpected {
    type Err = Error;

    fn from_str(text: &str) -> Result<StatusExpected> {
        match text.parse() {
            _ if text == "2xx" => Ok(StatusExpected::Success),
            Ok(status @ 200..=599) => Ok(StatusExpected::Exactly(status)),
            _ => Err(Error::Unusable(format!("{text}: a status is 2xx, or a number from 200 to 599"))),
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Method and target, for people.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
    /// How often it is sent, beside the others' weights; 1 to `MIX_WEIGHT_MAX`.
    pub weight: u32,
    /// What its answers must have.
    pub expected: StatusExpected,
    /// Its method is HEAD: no answer has a body.
    pub is_head: bool,
    /// Answers of one list, if they are any, are compared by their newest id.
    pub list: Option<String>,
}

impl Request {
    /// Any 2xx is expected, and a GET is one of its path's list.
    pub fn new(method: &str, target: &str, bytes: Vec<u8>) -> Request {
        let path = target.split('?').next().unwrap_or_default();
        Request {
            name: format!("{method} {target}"),
            bytes,
            weight: 1,
            expected: StatusExpected::Success,
            is_head: method == "HEAD",
            list: (method == "GET").then(|| path.to_owned()),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// At least one request.
#[derive(Clone, Debug)]
pub struct Traffic {
    requests: Vec<Request>,
    /// The sum of the weights up to and with each.
    weights: Vec<u64>,
    /// Of each request: the index of its list.
    lists: Vec<Option<usize>>,
    lists_count: usize,
}

impl Traffic {
    /// # Errors
    /// No request, more than `MIX_REQUESTS_MAX`, or a weight out of bounds.
    pub fn new(requests: Vec<Request>) -> Result<Traffic> {
        if requests.is_empty() || requests.len() > MIX_REQUESTS_MAX {
            return Err(Error::Unusable(format!("a mix is 1 to {MIX_REQUESTS_MAX} requests, not {}", requests.len())));
        }
        if let Some(request) = requests.iter().find(|request| !(1..=MIX_WEIGHT_MAX).contains(&request.weight)) {
            return Err(Error::Unusable(format!("{request}: a weight is 1 to {MIX_WEIGHT_MAX}")));
        }
        let mut sum = 0;
        let weights = requests.iter().map(|request| {
            sum += u64::from(request.weight);
            sum
        });
        let weights = weights.collect();
        let mut names: Vec<&str> = Vec::new();
        let mut index_of = |name| {
            names.iter().position(|known| *known == name).unwrap_or_else(|| {
                names.push(name);
                names.len() - 1
            })
        };
        let lists = requests.iter().map(|request| request.list.as_deref().map(&mut index_of)).collect();
        let lists_count = names.len();
        Ok(Traffic { requests, weights, lists, lists_count })
    }

    /// The requests, in their order.
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// Which list this request's answers belong to.
    pub fn list_of(&self, request_index: usize) -> Option<usize> {
        self.lists[request_index]
    }

    /// Different lists in all.
    pub fn lists_count(&self) -> usize {
        self.lists_count
    }

    /// The index of the next request, at random by weight.
    pub fn pick(&self, random: &mut fastrand::Rng) -> usize {
        match self.weights.as_slice() {
            [_] => 0,
            weights => {
                let sum = weights.last().copied().unwrap_or_default();
                let number = random.u64(..sum);
                weights.partition_point(|&weight| weight <= number)
            }
        }
    }

    /// Bytes of the largest request.
    pub fn request_bytes_max(&self) -> usize {
        self.requests.iter().map(|request| request.bytes.len()).max().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, weight: u32) -> Request {
        Request { weight, ..Request::new(method, target, Vec::new()) }
    }

    #[test]
    fn picks_follow_the_weights() {
        let requests = vec![request("GET", "/a?limit=1", 1), request("GET", "/a", 20), request("POST", "/a", 79)];
        let traffic = Traffic::new(requests).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut picks = [0; 3];
        for _ in 0..100_000 {
            picks[traffic.pick(&mut random)] += 1;
        }
        let expected = [1_000, 20_000, 79_000];
        assert!(picks.iter().zip(expected).all(|(&count, mean): (&i32, i32)| (count - mean).abs() < 600), "{picks:?}");
        assert_eq!((traffic.list_of(0), traffic.list_of(1), traffic.list_of(2)), (Some(0), Some(0), None));
        assert_eq!(traffic.lists_count(), 1);
    }

    #[test]
    fn unusable_mixes_are_refused() {
        let many = vec![request("GET", "/", 1); MIX_REQUESTS_MAX + 1];
        for requests in [Vec::new(), many, vec![request("GET", "/", 0)]] {
            assert!(Traffic::new(requests).is_err());
        }
    }

    #[test]
    fn statuses() {
        let table = [("2xx", 204, true), ("2xx", 304, false), ("404", 404, true), ("404", 200, false)];
        for (text, status, expected) in table {
            assert_eq!(text.parse::<StatusExpected>().unwrap().accepts(status), expected, "{text} {status}");
        }
        for text in ["", "3xx", "100", "600", "ok"] {
            assert!(text.parse::<StatusExpected>().is_err(), "{text}");
        }
    }
}
