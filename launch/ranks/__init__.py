"""One job as several processes of one or more machines: started, watched, stopped; exact sums over them."""
