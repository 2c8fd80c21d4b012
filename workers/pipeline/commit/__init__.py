"""From finished outcomes to committed offsets: the ledger, the poll thread and the publish thread."""
