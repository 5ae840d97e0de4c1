"""What each election must hold to, on a real store and a real ZooKeeper."""
