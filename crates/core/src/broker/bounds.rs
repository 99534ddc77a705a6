//! The bounds of what a service may be set to, whoever sets it: the configuration or a subscription.

/// The least of an `ackTimeout`, in ms.
pub const ACK_TIMEOUT_MS_MIN: u64 = 10;
/// The most of an `ackTimeout`, in seconds: a day.
pub const ACK_TIMEOUT_S_MAX: u64 = 86_400;
/// The most of a retry's `initialMs`: an hour.
pub const RETRY_INITIAL_MS_MAX: u64 = 3_600_000;
/// The least of a retry's `multiplier`.
pub const RETRY_MULTIPLIER_MIN: u64 = 1;
/// The most of it.
pub const RETRY_MULTIPLIER_MAX: u64 = 100;
/// The most of a retry's `maxMs`: a day.
pub const RETRY_MAX_MS_MAX: u64 = 86_400_000;
/// The most of a retry's `maxDeliveries`, which is at least 1.
pub const RETRY_DELIVERIES_MAX: u64 = 1_000_000;
/// The highest index of a frame in `orderBy`.
pub const ORDER_FRAME_MAX: u64 = 1023;
