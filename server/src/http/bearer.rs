//! Who writes: HS256 bearer tokens (RFC 6750, RFC 7515, RFC 7519).
//!
//! The signature is `jsonwebtoken`'s to check. The claims are checked here, against a time that is
//! given: the crate reads the clock itself, and grants a minute's leeway.

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, TokenData, Validation};
use serde_json::{Map, Value, json};

use super::reject::Reject;
use crate::limits::{TOKEN_BYTES_MAX, TOKEN_SUBJECT_BYTES_MAX};

/// A secret and the name that tokens give it.
#[derive(Clone)]
pub struct NamedSecret {
    /// What signs.
    pub secret: Vec<u8>,
    /// `kid` of a token's header (RFC 7515 4.1.4); a key without a name is good for every `kid`.
    pub id: Option<String>,
}

/// The secrets, ready to verify and to sign.
pub struct Keys {
    /// The one that signs comes first; what follows is still trusted.
    keys: Vec<Key>,
    encoding: EncodingKey,
    validation: Validation,
}

struct Key {
    decoding: DecodingKey,
    id: Option<String>,
}

impl Keys {
    /// The key of a secret. That it is long enough (RFC 7518 3.2) is the settings' to see to.
    pub fn new(secret: &[u8]) -> Keys {
        Keys::rotating(NamedSecret { secret: secret.to_vec(), id: None }, None)
    }

    /// Keys while one secret takes the place of another: the current one signs, and both verify.
    pub fn rotating(current: NamedSecret, previous: Option<NamedSecret>) -> Keys {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        // A token made for somebody else with the same secret is as good as ours: the secret decides.
        validation.validate_aud = false;
        let encoding = EncodingKey::from_secret(&current.secret);
        let key = |named: NamedSecret| Key { decoding: DecodingKey::from_secret(&named.secret), id: named.id };
        Keys { keys: [Some(current), previous].into_iter().flatten().map(key).collect(), encoding, validation }
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
        let data = self.decode(token)?;
        // RFC 7515 4.1.11: what the sender calls critical must be understood, and nothing is here.
        if data.header.crit.is_some() {
            return Err(Reject::TokenMalformed);
        }
        subject_at(data.claims, now_unix_seconds)
    }

    /// The token by the first key that signed it. jsonwebtoken compares signatures in constant time (aws-lc's HMAC).
    fn decode(&self, token: &[u8]) -> Result<TokenData<Map<String, Value>>, Reject> {
        let mut reject = Reject::TokenUntrusted;
        for key in &self.keys {
            match jsonwebtoken::decode(token, &key.decoding, &self.validation) {
                Ok(data) => return if key.is_meant_by(&data.header) { Ok(data) } else { Err(Reject::TokenUntrusted) },
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm => {}
                    // What is wrong with its form is so with every key, but only a signature that is right lets it show.
                    _ => reject = Reject::TokenMalformed,
                },
            }
        }
        Err(reject)
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
        let header = Header { kid: self.keys.first().and_then(|key| key.id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, &claims, &self.encoding)
    }
}

impl Key {
    fn is_meant_by(&self, header: &Header) -> bool {
        match (&self.id, &header.kid) {
            (Some(id), Some(named)) => id == named,
            _ => true,
        }
    }
}

/// What stands behind `Bearer`, in any case, and at least one space (RFC 6750 2.1). `None` for every
/// other scheme: that is a request without credentials of the kind asked for.
fn bearer_token(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = authorization.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") || !rest.starts_with(b" ") {
        return None;
    }
    Some(rest.trim_ascii_start()).filter(|token| !token.is_empty())
}

/// The subject of signed claims, if the time is right.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::fuzzing::signed;

    const SECRET: &[u8] = b"a secret of thirty-two bytes....";
    const NOW: u64 = 1_800_000_000;
    const HEADER: &str = r#"{"alg":"HS256","typ":"JWT"}"#;

    fn verify(authorization: &[u8]) -> Result<Box<str>, Reject> {
        Keys::new(SECRET).verify(Some(authorization), NOW)
    }

    fn check_claims(claims: &str, expected: Result<&str, Reject>) {
        let found = verify(&signed(SECRET, HEADER.as_bytes(), claims.as_bytes()));
        assert_eq!(found.as_deref().map_err(|reject| *reject), expected, "{claims}");
    }

    #[test]
    fn claims() {
        // RFC 7519 4 lets a reader choose between refusing this and taking the last one.
        const TWICE: &str = r#"{"sub":"a","sub":"b","exp":1800000001}"#;
        check_claims(r#"{"sub":"ann","exp":1800000001}"#, Ok("ann"));
        check_claims(r#"{"sub":"ann","exp":1800000000.5}"#, Ok("ann"));
        check_claims(r#"{"sub":"ann","exp":1e300,"nbf":1800000000,"aud":"x","iss":1}"#, Ok("ann"));
        check_claims(r#"{"sub":"ann","exp":1800000001,"nbf":-5,"aud":["x","y"]}"#, Ok("ann"));
        check_claims(r#"{"sub":"\u00e4","exp":1800000001}"#, Ok("ä"));
        check_claims(r#"{"x":1,"x":2,"sub":"ann","exp":1800000001}"#, Ok("ann"));

        check_claims(r#"{"sub":"ann","exp":1800000000}"#, Err(Reject::TokenExpired));
        check_claims(r#"{"sub":"ann","exp":0}"#, Err(Reject::TokenExpired));
        check_claims(r#"{"sub":"ann","exp":-1}"#, Err(Reject::TokenExpired));
        check_claims(r#"{"sub":"ann","exp":1800000009,"nbf":1800000001}"#, Err(Reject::TokenNotYetValid));
        check_claims(r#"{"sub":"ann","exp":1800000009,"nbf":1800000000.5}"#, Err(Reject::TokenNotYetValid));
        for claims in [
            r#"{"sub":"ann"}"#,
            r#"{"sub":"ann","exp":null}"#,
            r#"{"sub":"ann","exp":"1800000001"}"#,
            r#"{"sub":"ann","exp":1800000001,"nbf":null}"#,
            r#"{"sub":"ann","exp":1800000001,"nbf":"0"}"#,
            r#"{"exp":1800000001}"#,
            r#"{"sub":"","exp":1800000001}"#,
            r#"{"sub":1,"exp":1800000001}"#,
            r#"{"sub":null,"exp":1800000001}"#,
            "{}",
        ] {
            check_claims(claims, Err(Reject::TokenClaims));
        }
        for claims in ["", "[]", "null", "\"ann\"", "{", r#"["ann",1800000001]"#, r#"{"sub":"ann","exp":1e999}"#, TWICE]
        {
            check_claims(claims, Err(Reject::TokenMalformed));
        }
        let subject = |bytes: usize| format!(r#"{{"sub":"{}","exp":1800000001}}"#, "a".repeat(bytes));
        check_claims(&subject(TOKEN_SUBJECT_BYTES_MAX), Ok(&"a".repeat(TOKEN_SUBJECT_BYTES_MAX)));
        check_claims(&subject(TOKEN_SUBJECT_BYTES_MAX + 1), Err(Reject::TokenClaims));
        // A bad signature tells nothing about the claims.
        let forged = signed(b"another secret of 32 bytes......", HEADER.as_bytes(), b"{}");
        assert_eq!(verify(&forged), Err(Reject::TokenUntrusted));
    }

    #[test]
    fn headers() {
        let check = |header: &str, expected: Result<(), Reject>| {
            let found = verify(&signed(SECRET, header.as_bytes(), br#"{"sub":"ann","exp":1800000001}"#));
            assert_eq!(found.map(|_| ()), expected, "{header}");
        };
        check(r#"{"alg":"HS256"}"#, Ok(()));
        check(r#"{"alg":"HS256","kid":"1","x":2}"#, Ok(()));
        check(r#"{"alg":"HS256","crit":["exp"]}"#, Err(Reject::TokenMalformed));
        check(r#"{"alg":"HS256","crit":[]}"#, Err(Reject::TokenMalformed));
        check(r#"{"alg":"HS384"}"#, Err(Reject::TokenUntrusted));
        check(r#"{"alg":"HS512"}"#, Err(Reject::TokenUntrusted));
        check(r#"{"alg":"RS256"}"#, Err(Reject::TokenUntrusted));
        check(r#"{"alg":"none"}"#, Err(Reject::TokenMalformed));
        check(r#"{"alg":"hs256"}"#, Err(Reject::TokenMalformed));
        check("{}", Err(Reject::TokenMalformed));
        check("", Err(Reject::TokenMalformed));
    }

    #[test]
    fn authorization_values() {
        let good = signed(SECRET, HEADER.as_bytes(), br#"{"sub":"ann","exp":1800000001}"#);
        let token = str::from_utf8(&good[7..]).unwrap();
        let check = |value: &str, expected: Result<(), Reject>| {
            assert_eq!(verify(value.as_bytes()).map(|_| ()), expected, "{value}");
        };
        check(&format!("Bearer {token}"), Ok(()));
        check(&format!("bEARER   {token}"), Ok(()));
        for other in ["", "Bearer", "Bearer\t", "Basic YTpi", "Bearerx", token] {
            check(other, Err(Reject::TokenMissing));
        }
        check(&format!("Bearer{token}"), Err(Reject::TokenMissing));
        check(&format!("Basic {token}"), Err(Reject::TokenMissing));
        check("Bearer ", Err(Reject::TokenMissing));
        check(&format!("Bearer {token} x"), Err(Reject::TokenMalformed));
        check(&format!("Bearer {token}="), Err(Reject::TokenMalformed));
        check(&format!("Bearer {token}.x"), Err(Reject::TokenMalformed));
        check("Bearer x", Err(Reject::TokenMalformed));
        check("Bearer ..", Err(Reject::TokenMalformed));
        assert_eq!(Keys::new(SECRET).verify(None, NOW), Err(Reject::TokenMissing));

        // Not one signature bit is spare.
        for index in token.rfind('.').unwrap() + 1..token.len() {
            let mut changed = good.clone();
            let at = index + 7;
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let reject = verify(&changed).unwrap_err();
            assert!(matches!(reject, Reject::TokenUntrusted | Reject::TokenMalformed), "{reject:?}");
        }
    }

    #[test]
    fn the_length_is_bounded() {
        let padded = |bytes: usize| {
            let header = format!(r#"{{"alg":"HS256","kid":"{}"}}"#, "a".repeat(bytes));
            signed(SECRET, header.as_bytes(), br#"{"sub":"ann","exp":1800000001}"#)
        };
        let largest = (0..TOKEN_BYTES_MAX).rfind(|&bytes| padded(bytes).len() - 7 <= TOKEN_BYTES_MAX).unwrap();
        assert!(verify(&padded(largest)).is_ok());
        assert_eq!(verify(&padded(largest + 1)), Err(Reject::TokenMalformed));
    }

    #[test]
    fn what_is_signed_is_good_until_it_expires() {
        let keys = Keys::new(SECRET);
        let authorization = format!("Bearer {}", keys.sign("ann", NOW, 60).unwrap());
        let verify = |now| keys.verify(Some(authorization.as_bytes()), now);
        assert_eq!(verify(NOW).as_deref(), Ok("ann"));
        assert_eq!(verify(NOW + 59).as_deref(), Ok("ann"));
        assert_eq!(verify(NOW + 60), Err(Reject::TokenExpired));
        assert_eq!(Keys::new(b"another").verify(Some(authorization.as_bytes()), NOW), Err(Reject::TokenUntrusted));
    }

    #[test]
    fn a_secret_takes_the_place_of_another() {
        let named = |secret: &str, id: Option<&str>| NamedSecret {
            secret: format!("{secret:.<32}").into_bytes(),
            id: id.map(str::to_owned),
        };
        let (old, new) = (named("old", Some("2025")), named("new", Some("2026")));
        let before = Keys::rotating(old.clone(), None);
        let during = Keys::rotating(new.clone(), Some(old.clone()));
        let after = Keys::rotating(new, None);
        let check = |keys: &Keys, token: &[u8], expected: Result<&str, Reject>| {
            let found = keys.verify(Some(token), NOW);
            assert_eq!(found.as_deref().map_err(|reject| *reject), expected);
        };
        let token = |keys: &Keys| format!("Bearer {}", keys.sign("ann", NOW, 60).unwrap()).into_bytes();
        check(&during, &token(&before), Ok("ann"));
        check(&during, &token(&during), Ok("ann"));
        check(&after, &token(&before), Err(Reject::TokenUntrusted));
        check(&after, &token(&during), Ok("ann"));

        // A token says which key it means, and is no other's; one that says nothing is good with each.
        let claims = br#"{"sub":"ann","exp":1800000001}"#;
        let signed_as = |header: &str| signed(&old.secret, header.as_bytes(), claims);
        check(&during, &signed_as(r#"{"alg":"HS256"}"#), Ok("ann"));
        check(&during, &signed_as(r#"{"alg":"HS256","kid":"2025"}"#), Ok("ann"));
        check(&during, &signed_as(r#"{"alg":"HS256","kid":"2026"}"#), Err(Reject::TokenUntrusted));
        check(&during, &signed_as(r#"{"alg":"HS256","kid":"2024"}"#), Err(Reject::TokenUntrusted));
        check(&Keys::rotating(named("old", None), None), &signed_as(r#"{"alg":"HS256","kid":"any"}"#), Ok("ann"));
        // Malformed with the previous key is malformed.
        check(&during, &signed(&old.secret, HEADER.as_bytes(), b"[]"), Err(Reject::TokenMalformed));
    }
}
