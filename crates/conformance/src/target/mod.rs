//! The targets a system can run on. Each turns a request into lanes; what a scenario sees of them is one Environment.

pub mod embedded;

mod manifests;
mod pod_logs;
mod seams;
mod startup;
