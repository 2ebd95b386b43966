"""From a plan to a finished RECORDS directory."""
