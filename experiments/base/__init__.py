"""What all experiments share: options, the session, traces and pairs to measure, the record and its runner."""
