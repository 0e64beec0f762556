//! Names on D-Bus and in polkit.

/// The well-known name.
pub const BUS_NAME: &str = "org.ioasid1";
/// The manager's object.
pub const BUS_PATH: &str = "/org/ioasid1";
/// Before a refusal's name, the name of the D-Bus error.
pub const BUS_ERROR_PREFIX: &str = "org.ioasid1.Error.";
/// polkit: make a set.
pub const ACTION_CREATE_SET: &str = "org.ioasid1.create-set";
/// polkit: open, recharge, revoke sets of others.
pub const ACTION_MANAGE_SETS: &str = "org.ioasid1.manage-sets";
/// polkit: set `max`, reset `peak`.
pub const ACTION_SET_LIMITS: &str = "org.ioasid1.set-limits";
/// polkit: read the policy again.
pub const ACTION_RELOAD: &str = "org.ioasid1.reload";
/// The manager's interface.
pub const MANAGER_INTERFACE: &str = "org.ioasid1.Manager";
/// The interface of a set.
pub const SET_INTERFACE: &str = "org.ioasid1.Set";
/// Before a set's number, its object.
pub const BUS_SET_PREFIX: &str = "/org/ioasid1/set/";
