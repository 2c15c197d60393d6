//! fault-proxy.
