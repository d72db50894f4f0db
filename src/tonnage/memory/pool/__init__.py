"""What engines with a pool of pages plan: what a rank keeps, pages and slots, the profile run, what is no tensor."""
