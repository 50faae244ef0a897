module fairway.dev/e2e/app

go 1.24
