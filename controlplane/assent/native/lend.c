// SPDX-License-Identifier: Apache-2.0
#include "lend.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_xdp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "assent/credit.h"

#define LINES_MAX 4096
#define SEQ_END (1u << 31) /* the session is renewed before */

struct lent_flow {
	struct assent_flow *gate; /* the line in the gate's map; NULL = not lent */
	uint64_t voided;          /* as of the last look */
};

struct an_loan {
	struct an_loan_info info;
	struct an_lent_page *page;
	size_t page_size;
	struct lent_flow *flows;
	uint8_t cell[16]; /* that the socket is for, of AF_PACKET */
	uint32_t ifindex; /* that it is bound to; the page may say anything */
	int is_confined;
};

/* -- life -- */

/* Shared memory that nobody can make shorter: whoever reads it must not fault. */
static int make_memory(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)size) ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)) {
		int err = -errno;

		close(fd);
		return err;
	}
	return fd;
}

static void *map_memory(int fd, size_t size)
{
	void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return map == MAP_FAILED ? NULL : map;
}

/* Before 6.4 a kernel does not let rings be mapped once the socket is bound: not by a borrower. */
static int can_be_mapped(int fd)
{
	long page = sysconf(_SC_PAGESIZE);
	void *map = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, fd,
			 (off_t)XDP_UMEM_PGOFF_FILL_RING);

	if (map == MAP_FAILED)
		return -errno;
	munmap(map, (size_t)page);
	return 0;
}

static int lend_xdp(struct an_loan *loan, const struct an_ring_config *config,
		    struct an_shape *shape, const char **step)
{
	int err = an_shape_init(shape, config, AN_BACKEND_AF_XDP, step);
	void *area;

	if (err)
		return err;
	*step = "reserving memory";
	loan->info.umem = make_memory("assent-frames", an_shape_size(shape));
	if (loan->info.umem < 0)
		return loan->info.umem;
	area = map_memory(loan->info.umem, an_shape_size(shape));
	if (!area)
		return -errno;
	loan->info.socket = an_xdp_socket(shape, area, step);
	/* The kernel holds the pages. */
	munmap(area, an_shape_size(shape));
	if (loan->info.socket < 0)
		return loan->info.socket;
	err = an_xdp_bind(loan->info.socket, config, shape, step);
	if (err)
		return err;
	*step = "mapping the rings of a bound socket";
	return can_be_mapped(loan->info.socket);
}

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* AF_XDP, or else AF_PACKET with the reason kept. */
static int make_socket(struct an_loan *loan, const struct an_ring_config *config,
		       struct an_shape *shape, const char **kind, const char **step)
{
	int err = -EBADF;

	if (config->backend != AN_BACKEND_AF_PACKET) {
		*kind = "AF_XDP";
		*step = "the gate's table of sockets is not open";
		if (config->sockets_map >= 0)
			err = lend_xdp(loan, config, shape, step);
		loan->info.backend = AN_BACKEND_AF_XDP;
		if (!err || config->backend == AN_BACKEND_AF_XDP)
			return err;
		snprintf(loan->info.fallback_reason, sizeof(loan->info.fallback_reason),
			 "AF_XDP on %.15s: %s: %s", config->interface, *step, strerror(-err));
		close_fd(&loan->info.socket);
		close_fd(&loan->info.umem);
	}
	*kind = "AF_PACKET";
	loan->info.backend = AN_BACKEND_AF_PACKET;
	err = an_shape_init(shape, config, AN_BACKEND_AF_PACKET, step);
	if (err)
		return err;
	loan->info.socket = an_packet_socket(shape, step);
	return loan->info.socket < 0 ? loan->info.socket : 0;
}

static int make_page(struct an_loan *loan, const struct an_shape *shape, uint32_t lines,
		     const char **step)
{
	*step = "making the page";
	if (!lines || lines > LINES_MAX)
		return -EINVAL;
	loan->page_size = sizeof(*loan->page) + lines * sizeof(loan->page->line[0]);
	loan->info.page = make_memory("assent-lines", loan->page_size);
	if (loan->info.page < 0)
		return loan->info.page;
	loan->page = map_memory(loan->info.page, loan->page_size);
	loan->flows = calloc(lines, sizeof(*loan->flows));
	loan->info.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	loan->info.doorbell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!loan->page || !loan->flows || loan->info.bell < 0 || loan->info.doorbell < 0)
		return -ENOMEM;
	loan->page->magic = AN_LENT_MAGIC;
	loan->page->lines = loan->info.lines = lines;
	loan->page->backend = (uint32_t)loan->info.backend;
	loan->page->shape = *shape;
	loan->ifindex = shape->ifindex;
	loan->info.zero_copy = (int)shape->zero_copy;
	memcpy(loan->info.interface, shape->interface, sizeof(loan->info.interface));
	return 0;
}

an_loan *an_loan_open(const struct an_ring_config *config, uint32_t lines, char *error,
		      size_t error_len)
{
	struct an_loan *loan = calloc(1, sizeof(*loan));
	const char *kind = "a ring", *step = "allocating";
	struct an_shape shape;
	int err = loan ? 0 : -ENOMEM;

	if (loan) {
		loan->info.socket = loan->info.umem = loan->info.page = -1;
		loan->info.bell = loan->info.doorbell = -1;
		err = make_socket(loan, config, &shape, &kind, &step);
	}
	if (!err)
		err = make_page(loan, &shape, lines, &step);
	if (!err)
		return loan;
	snprintf(error, error_len, "lending %s on %.15s: %s: %s", kind, config->interface, step,
		 strerror(-err));
	an_loan_close(loan);
	return NULL;
}

void an_loan_describe(const an_loan *loan, struct an_loan_info *info)
{
	*info = loan->info;
}

void an_loan_close(an_loan *loan)
{
	if (!loan)
		return;
	for (uint32_t i = 0; i < loan->info.lines; i++)
		an_loan_take_back(loan, i);
	if (loan->page)
		munmap(loan->page, loan->page_size);
	close_fd(&loan->info.socket);
	close_fd(&loan->info.umem);
	close_fd(&loan->info.page);
	close_fd(&loan->info.bell);
	close_fd(&loan->info.doorbell);
	free(loan->flows);
	free(loan);
}

/* -- wishes -- */

#define load(field) __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define store(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

/* What a void stood for was paid for by the peer, and never arrived. */
static void apply_voided(struct lent_flow *flow, const struct an_lent_line *lent)
{
	uint64_t said = load(lent->voided);
	uint64_t granted = load(flow->gate->rx_granted), spent = load(flow->gate->rx_spent);
	uint64_t more = said - flow->voided;

	if (!more || spent > granted || more > granted - spent)
		return;
	flow->voided = said;
	assent_atomic_add(&flow->gate->rx_spent, more);
}

/* What it takes has arrived. The window is the gate's: the page's may have been replaced, and what
 * was wished for by a wider one would be granted before as much is consumed. */
static void apply_grant(struct assent_flow *gate, const struct an_lent_line *lent)
{
	uint64_t taken = load(lent->taken), spent = load(gate->rx_spent);

	assent_counter_raise(&gate->rx_granted,
			     load(gate->rx_window) + (taken < spent ? taken : spent));
}

static void apply_numbers(struct assent_flow *gate, const struct an_lent_line *lent)
{
	uint32_t tx_seq = load(lent->line.tx_seq);
	uint32_t rx_next = load(lent->line.rx_next);

	if (tx_seq > gate->tx_seq && tx_seq < SEQ_END)
		store(gate->tx_seq, tx_seq);
	assent_counter_raise(&gate->tx_spent, load(lent->line.tx_spent));
	if (rx_next > gate->rx_next && rx_next <= load(gate->rx_highest) + 1)
		store(gate->rx_next, rx_next);
}

/* While it is open it counts as unfinished: were the lender gone too, nobody would know which
 * numbers were used since the last look, and the flow must not be driven again. */
static void apply_open(const struct an_loan *loan, struct assent_flow *gate,
		       const struct an_lent_line *lent)
{
	__u32 kind = loan->info.backend == AN_BACKEND_AF_XDP ? ASSENT_TO_RING : ASSENT_TO_STACK;

	if (load(lent->line.rx_open)) {
		store(gate->tx_pending, 1);
		store(gate->rx_open, assent_open_at(kind, loan->ifindex));
	} else {
		store(gate->rx_open, (__u16)ASSENT_SHUT);
	}
}

/* What the gate and the control plane have written since. Was there anything? */
static int tell(const struct assent_flow *gate, struct an_lent_line *lent)
{
	struct assent_flow *line = &lent->line;
	uint64_t confirmed = load(gate->rx_granted), tx_granted = load(gate->tx_granted);
	int changed = confirmed != lent->confirmed_granted || tx_granted > load(line->tx_granted) ||
		      gate->rx_window != line->rx_window || gate->tx_window != line->tx_window ||
		      gate->replay_len != line->replay_len;

	if (!changed)
		return 0;
	/* tx_window first: a wider one must not read as a receipt of the grant that came with it.
	 */
	store(line->tx_window, load(gate->tx_window));
	assent_counter_raise(&line->tx_granted, tx_granted);
	store(line->rx_window, load(gate->rx_window));
	store(line->replay_len, load(gate->replay_len));
	store(lent->confirmed_granted, confirmed);
	return 1;
}

static int apply(const struct an_loan *loan, uint32_t index)
{
	struct lent_flow *flow = &loan->flows[index];
	struct an_lent_line *lent = &loan->page->line[index];

	if (!flow->gate)
		return 0;
	/* The session is over, and the line may become another's. */
	if (!load(flow->gate->replay_len)) {
		store(lent->line.replay_len, 0);
		flow->gate = NULL;
		return 1;
	}
	apply_voided(flow, lent);
	apply_grant(flow->gate, lent);
	apply_numbers(flow->gate, lent);
	apply_open(loan, flow->gate, lent);
	return tell(flow->gate, lent);
}

int an_loan_apply(an_loan *loan)
{
	const uint64_t one = 1;
	uint64_t count;
	int changed = 0;

	if (read(loan->info.doorbell, &count, sizeof(count)) < 0 && errno != EAGAIN)
		return -errno;
	for (uint32_t i = 0; i < loan->info.lines; i++)
		changed += apply(loan, i);
	if (changed && write(loan->info.bell, &one, sizeof(one)) < 0 && errno != EAGAIN)
		return -errno;
	return changed;
}

/* The filter of an AF_PACKET socket is for one cell, and stays. */
static int confine(struct an_loan *loan, const uint8_t local_cell[16])
{
	int err;

	if (loan->info.backend != AN_BACKEND_AF_PACKET)
		return 0;
	if (loan->is_confined)
		return memcmp(loan->cell, local_cell, sizeof(loan->cell)) ? -EXDEV : 0;
	err = an_packet_confine(loan->info.socket, local_cell);
	memcpy(loan->cell, local_cell, sizeof(loan->cell));
	loan->is_confined = !err;
	return err;
}

int an_loan_lend(an_loan *loan, uint32_t index, const uint8_t local_cell[16], uint32_t flow,
		 void *line, char *error, size_t error_len)
{
	struct an_lent_line *lent;
	int err;

	if (index >= loan->info.lines || loan->flows[index].gate) {
		snprintf(error, error_len, "flow %u: line %u is not free", flow, index);
		return -EINVAL;
	}
	err = confine(loan, local_cell);
	if (err) {
		snprintf(error, error_len, "flow %u: this ring is lent to another cell: %s", flow,
			 strerror(-err));
		return err;
	}
	lent = &loan->page->line[index];
	memset(lent, 0, sizeof(*lent));
	lent->line = *(const struct assent_flow *)line;
	lent->line.rx_open = ASSENT_SHUT;
	lent->confirmed_granted = lent->line.rx_granted;
	loan->flows[index] = (struct lent_flow){.gate = line};
	return 0;
}

void an_loan_take_back(an_loan *loan, uint32_t index)
{
	struct assent_flow *gate;

	if (index >= loan->info.lines)
		return;
	gate = loan->flows[index].gate;
	if (!gate)
		return;
	apply(loan, index);
	if (loan->flows[index].gate) {
		store(gate->rx_open, (__u16)ASSENT_SHUT);
		store(gate->tx_pending,
		      (__u16)(load(loan->page->line[index].line.tx_pending) != 0));
	}
	loan->flows[index].gate = NULL;
	store(loan->page->line[index].line.replay_len, 0);
}
