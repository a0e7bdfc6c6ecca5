# What a contributor, an operator and CI run. Each target installs what it lacks on Debian as root (deploy/tools/need);
# anybody else is told what to install.
GO       ?= go
FUZZTIME ?= 10s
ARGS     ?=

# Where `make dev` keeps its certificate authority and its Postgres: it is found again at the next start.
ifeq ($(shell id -u),0)
DATA ?= /var/lib/segl/dev
else
DATA ?= $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/segl/dev
endif

# golangci-lint, with gofumpt 0.12 in it, stays out of go.mod: it is no part of the program.
GOLANGCI := v2.15.0
TOOLS    := $(CURDIR)/.cache/bin

.PHONY: build dev test lint bench soak fuzz clean
.DEFAULT_GOAL := build

# bin/segl is one static file. bin/segl-pkcs11 is the same program with the PKCS#11 provider, which needs a C compiler:
# it is made where there is one.
build:
	@deploy/tools/need build
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/segl ./cmd/segl
	@if ! command -v "$$($(GO) env CC)" >/dev/null; then \
		echo 'bin/segl-pkcs11: not made: it needs a C compiler'; \
	else \
		CGO_ENABLED=1 $(GO) build -tags pkcs11 -trimpath -ldflags '-s -w' -o bin/segl-pkcs11 ./cmd/segl; \
	fi

# make dev [DATA=directory] [ARGS='--service 127.0.0.1:0 …']
dev: build
	@deploy/tools/need dev
	@exec bin/segl dev --data "$(DATA)" $(ARGS)

# Two packages at a time: most of the work is other people's programs and Postgres, which have processes of their own.
test:
	@deploy/tools/need test
	$(GO) vet ./...
	$(GO) test -p 2 -timeout 14m ./...
	CGO_ENABLED=1 $(GO) test -tags pkcs11 ./kms/stepkms

lint: $(TOOLS)/golangci-lint-$(GOLANGCI)
	@deploy/tools/need lint
	$(TOOLS)/golangci-lint-$(GOLANGCI) run ./...
	deploy/tools/shell-scripts | xargs shellcheck
	$(GO) test ./internal/layers ./internal/sqlstyle

# Prints the figures and writes docs/performance.md.
bench:
	@deploy/tools/need test
	$(GO) run ./internal/bench

# The long tests: faults at random instants, under load, with the race detector; ten million certificates (10 GB of disk), and
# a million ACME orders.
soak:
	@deploy/tools/need soak
	$(GO) test -race -tags soak -count 1 -p 1 -timeout 2h ./...
	SEGL_LARGE=10000000 $(GO) test -count 1 -timeout 2h -run TestEverythingIsFoundInALargeLedger -v ./ca/ledger
	SEGL_ORDERS=1000000 $(GO) test -count 1 -timeout 2h -run TestManyOrdersLeaveNoGrowthBehind -v ./acme/store

# Every fuzz target for FUZZTIME.
fuzz:
	@deploy/tools/need dev
	GO='$(GO)' deploy/tools/fuzz $(FUZZTIME)

clean:
	rm -rf bin .cache

$(TOOLS)/golangci-lint-$(GOLANGCI):
	@deploy/tools/need build
	GOBIN=$(TOOLS) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI)
	mv $(TOOLS)/golangci-lint $@
