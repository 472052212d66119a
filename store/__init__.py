"""ClickHouse: schema, the one client, the journal's follower, queries, views and importers."""
