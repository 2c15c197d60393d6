//! The program of the test image `test/web`: it answers every request with its environment.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

/// Serves until the process ends.
pub fn serve(address: &str) {
    let listener = TcpListener::bind(address).expect("the address to listen on");
    println!("listening on {address}");
    for connection in listener.incoming() {
        let Ok(mut connection) = connection else { continue };
        let body: String = std::env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
        let mut request = [0; 4096];
        let _ = connection.read(&mut request);
        let _ =
            write!(connection, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    }
}

/// What it answers.
pub async fn get(address: &str) -> String {
    let client = reqwest::Client::builder().no_proxy().build().expect("client");
    client.get(format!("http://{address}/")).send().await.expect("answer").text().await.expect("text")
}
