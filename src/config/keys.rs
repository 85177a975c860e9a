//! The vocabulary: which keys there are, section by section.
//!
//! Every section of the file is one [`Keys`]: those of this version, and those of a later one,
//! which are recognised so that the answer is "not supported by this version", not a guess at
//! what was meant. `docs/config.yaml` must show each key of this version; a test holds it to that.

/// The keys of one section.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Where the section stands, for messages.
    pub(crate) at: &'static str,
    /// Keys of this version.
    pub(crate) known: &'static [&'static str],
    /// Keys of a later version.
    pub(crate) later: &'static [&'static str],
}

macro_rules! sections {
    ($($name:ident = $at:literal [$($known:literal),*] later [$($later:literal),*];)+) => {
        $(pub(crate) const $name: Keys =
            Keys { at: $at, known: &[$($known),*], later: &[$($later),*] };)+

        /// Every section, the file's order.
        pub(crate) const ALL: &[Keys] = &[$($name),+];
    };
}

sections! {
    FILE = "the file" [
        "apiVersion", "kind", "listeners", "servers", "sessions", "shutdown", "readiness",
        "observability", "control"
    ] later ["oauth", "tokenStore", "serverApi", "tunnels", "metadata"];

    LISTENER = "listeners[]" [
        "name", "type", "listen", "basePath", "maxBodyBytes", "rateLimit", "limits",
        "allowFrom", "allowedOrigins", "allowedHosts", "inboundAuth", "allowUnauthenticated"
    ] later ["publicUrl", "surfaces", "cors", "tls", "server", "path", "register", "userToken", "restFacade", "eras"];
    RATE_LIMIT = "rateLimit" ["perCaller"] later [];
    LISTENER_LIMITS = "listeners[].limits" ["concurrency"]
        later ["maxFrameBytes", "heartbeatTimeout"];
    INBOUND_AUTH = "inboundAuth" ["apiKeys"] later ["jwt", "mtls"];
    API_KEY = "apiKeys[]" ["name", "header", "valueFrom"] later [];

    SERVER = "servers[]" [
        "name", "basePath", "endpoints", "auth", "headers", "timeouts", "pool", "tls",
        "allowPlaintext", "loadBalancing", "retry", "tools", "sessions", "limits"
    ] later ["cache", "reconnect", "keepAlive", "egressProxy", "redact", "restFacade", "era"];
    ENDPOINT = "endpoints[]" ["url", "transport"]
        later ["command", "args", "env", "address", "weight", "auth"];
    AUTH = "auth" [
        "type", "token", "key", "username", "password", "headerName", "valueTemplate", "anonymous"
    ] later [
        "strategy", "issuer", "clientId", "clientSecret", "redirectUri", "scopes", "fallback",
        "probe", "tokensPer", "metadataUrl", "endpointsOverride", "resource", "audience"
    ];
    SECRET = "a secret" ["valueFrom"] later [];
    VALUE_FROM = "valueFrom" ["file", "env"] later ["secretKeyRef", "configMapKeyRef"];
    HEADERS = "headers" ["static", "forward", "rename"] later [];
    STATIC_HEADER = "headers.static[]" ["name", "value", "valueFrom"] later [];
    TIMEOUTS = "timeouts" ["connect", "request", "methods", "streamIdle", "total", "hold"]
        later ["input"];
    POOL = "pool" ["max", "maxIdle", "maxAge", "idle", "streams"] later ["http2"];
    TLS = "tls" ["caFile", "insecureSkipVerify"] later ["certFile", "keyFile", "serverName"];
    LOAD_BALANCING = "loadBalancing" ["policy", "affinity"]
        later ["healthCheck", "ejection", "weights"];
    RETRY = "retry" ["maxAttempts", "backoff", "toolCalls", "budget"] later ["hedge"];
    BACKOFF = "backoff" ["kind", "initial", "max", "jitter"] later [];
    BUDGET = "budget" ["percent", "minPerSecond"] later [];
    TOOLS = "tools" ["include", "exclude"] later ["rename", "prefix"];
    SERVER_SESSIONS = "servers[].sessions" ["rebuild"] later [];
    SERVER_LIMITS = "servers[].limits" ["concurrency"] later ["perCaller"];

    SESSIONS = "sessions" ["key", "expiry"] later ["store", "journal", "redis"];
    SHUTDOWN = "shutdown" ["grace"] later [];
    READINESS = "readiness" ["requireServers"] later [];
    OBSERVABILITY = "observability" ["log", "metrics", "tracing"] later [];
    LOG = "log" ["level", "format", "bodies"] later ["stdioNotifications"];
    LOG_BODIES = "log.bodies" ["requests", "responses"] later [];
    METRICS = "metrics" ["listen", "legacyNames", "semconv"] later [];
    TRACING = "tracing" ["otlpEndpoint", "serviceName"] later ["sampler", "headers"];
    CONTROL = "control" ["listen"] later [];
}

/// Words that values are made of; with the keys, all that a masked text still shows.
const WORDS: &[&str] = &[
    "outrigger.dev/v1alpha1",
    "SidecarConfig",
    "http",
    "https",
    "auto",
    "streamableHttp",
    "sse",
    "websocket",
    "stdio",
    "none",
    "bearer",
    "apiKey",
    "basic",
    "passthrough",
    "forward",
    "oauth2",
    "clientCredentials",
    "tokenExchange",
    "perUserKey",
    "roundRobin",
    "failover",
    "leastLoaded",
    "session",
    "exponential",
    "fixed",
    "full",
    "never",
    "always",
    "annotated",
    "true",
    "false",
    "null",
    "trace",
    "debug",
    "info",
    "warn",
    "error",
    "text",
    "json",
    "default",
];

/// Whether a word is ours, so that it can be shown wherever it stands.
pub(crate) fn is_vocabulary(word: &str) -> bool {
    WORDS.contains(&word)
        || ALL
            .iter()
            .any(|keys| keys.known.contains(&word) || keys.later.contains(&word))
}

/// The candidate that was most likely meant, if one is near enough.
pub(crate) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = plain(word);
    let most = (word.len() / 2).clamp(1, 3);
    candidates
        .iter()
        .map(|candidate| (distance(&word, &plain(candidate)), *candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Without the differences between `maxIdle`, `max_idle` and `max-idle`; cut, so that a distance
/// costs little whatever it is asked.
fn plain(word: &str) -> Vec<char> {
    let letters = word
        .chars()
        .filter(|letter| !matches!(letter, '_' | '-'))
        .take(32);
    letters.map(|letter| letter.to_ascii_lowercase()).collect()
}

/// How many letters must be put in, left out or replaced (Levenshtein).
fn distance(one: &[char], other: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in (1..).zip(one) {
        let mut diagonal = i - 1;
        let mut left = i;
        for (cell, b) in row.iter_mut().skip(1).zip(other) {
            let here = (diagonal + usize::from(a != b))
                .min(*cell + 1)
                .min(left + 1);
            diagonal = *cell;
            *cell = here;
            left = here;
        }
        if let Some(first) = row.first_mut() {
            *first = i;
        }
    }
    row.last().copied().unwrap_or(one.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_found() {
        assert_eq!(nearest("retries", SERVER.known), Some("retry"));
        assert_eq!(nearest("max_idle", POOL.known), Some("maxIdle"));
        assert_eq!(nearest("timeout", SERVER.known), Some("timeouts"));
        assert_eq!(nearest("endpoint", SERVER.known), Some("endpoints"));
        assert_eq!(nearest("Retry", SERVER.known), Some("retry"));
        assert_eq!(nearest("banana", SERVER.known), None);
        assert_eq!(nearest("", SERVER.known), None);
    }

    #[test]
    fn distance_counts_edits() {
        let of = |a: &str, b: &str| distance(&plain(a), &plain(b));
        assert_eq!(of("kitten", "sitting"), 3);
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("abc", "abc"), 0);
    }

    #[test]
    fn no_key_is_both_known_and_later() {
        for keys in ALL {
            assert!(
                keys.known.iter().all(|key| !keys.later.contains(key)),
                "{}",
                keys.at
            );
        }
    }
}
