B
Identity:0Jžh?ô(?q×?