"""What a node is made of: cores, shared memory, mailboxes, worker processes."""
