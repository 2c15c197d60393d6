//! The few pages the router answers with itself.

/// Nothing serves the host, or nothing that is ready.
pub(super) fn unavailable(host: &str) -> String {
    page(
        "Application is not available",
        &format!(
            "No ready application serves {} at this address. The route may be missing or not admitted, \
             it may be for another protocol, or none of its pods may be ready.",
            escaped(host)
        ),
    )
}

/// A pod accepted the request and then broke off.
pub(super) fn broken(host: &str) -> String {
    page("Application broke off", &format!("The application behind {} ended the connection.", escaped(host)))
}

/// The request names no host.
pub(super) fn bad_request() -> String {
    page("Bad request", "The request does not name a host.")
}

fn page(title: &str, text: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
