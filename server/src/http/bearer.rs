//! Who writes: HS256 bearer tokens (RFC 6750, RFC 7515, RFC 7519).
//!
//! The signature is `jsonwebtoken`'s to check. The claims are checked here, against a time that is
//! given: the crate reads the clock itself, and grants a minute's leeway.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};

use super::reject::Reject;
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_SUBJECT_BYTES_MAX};

/// The secret, ready to verify and to sign.
pub struct Keys {
    decoding: DecodingKey,
    encoding: EncodingKey,
    validation: Validation,
}

impl Keys {
    /// Keys of a secret. That it is long enough (RFC 7518 3.2) is the settings' to see to.
    pub fn new(secret: &[u8]) -> Keys {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        // A token made for somebody else with the same secret is as good as ours: the secret decides.
        validation.validate_aud = false;
        Keys { decoding: DecodingKey::from_secret(secret), encoding: EncodingKey::from_secret(secret), validation }
    }

    /// The `sub` of the token in an `Authorization` field, at a Unix time in seconds: 1 to
    /// [`TOKEN_SUBJECT_BYTES_MAX`] bytes. A token is good from its `nbf` on, where it has one, and until
    /// just before its `exp`.
    ///
    /// # Errors
    /// 401, with the reason.
    pub fn verify(&self, authorization: Option<&[u8]>, now_unix_seconds: u64) -> Result<Box<str>, Reject> {
        let token = authorization.and_then(bearer_token).ok_or(Reject::TokenMissing)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Reject::TokenMalformed);
        }
        let data =
            jsonwebtoken::decode::<Map<String, Value>>(token, &self.decoding, &self.validation).map_err(|error| {
                match error.kind() {
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => Reject::TokenUntrusted,
                    _ => Reject::TokenMalformed,
                }
            })?;
        // RFC 7515 4.1.11: what the sender calls critical must be understood, and nothing is here.
        if data.header.crit.is_some() {
            return Err(Reject::TokenMalformed);
        }
        subject_at(data.claims, now_unix_seconds)
    }

    /// A token for `subject` that expires `ttl_seconds` after the given Unix time.
    ///
    /// # Errors
    /// What the crate cannot sign. A subject that [`Keys::verify`] would refuse is signed all the same.
    pub fn sign(
        &self,
        subject: &str,
        now_unix_seconds: u64,
        ttl_seconds: u64,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let expiry = now_unix_seconds.saturating_add(ttl_seconds);
        let claims = json!({ "sub": subject, "iat": now_unix_seconds, "exp": expiry });
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
    }
}

/// What stands behind `Bearer`, in any case, and at least one space (RFC 6750 2.1). `None` for every
/// other scheme: that is a request without credentials of the kind asked for.
fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") || !rest.starts_with(b" ") {
        return None;
    }
    Some(rest.trim_ascii_start())
}

/// The subject of signed claims, if the time is right. Of a claim that is named twice the last counts
/// (RFC 7519 4).
fn subject_at(mut claims: Map<String, Value>, now_unix_seconds: u64) -> Result<Box<str>, Reject> {
    // A NumericDate may have a fraction (RFC 7519 2); whole seconds are exact in an f64 up to 2^53.
    let now = now_unix_seconds as f64;
    let expiry = claims.get("exp").and_then(Value::as_f64).ok_or(Reject::TokenClaims)?;
    let not_before = match claims.get("nbf") {
        Some(value) => value.as_f64().ok_or(Reject::TokenClaims)?,
        None => 0.0,
    };
    let Some(Value::String(subject)) = claims.remove("sub") else {
        return Err(Reject::TokenClaims);
    };
    if subject.is_empty() || subject.len() > TOKEN_SUBJECT_BYTES_MAX {
        return Err(Reject::TokenClaims);
    }
    if now >= expiry {
        return Err(Reject::TokenExpired);
    }
    if now < not_before {
        return Err(Reject::TokenNotYetValid);
    }
    Ok(subject.into_boxed_str())
}
