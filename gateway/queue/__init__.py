"""From the database to a free slot: lanes in memory, the feeder that fills them, group commits."""
