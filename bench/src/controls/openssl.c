/* OpenSSL over epoll: the server that one writes in C with care, on one thread and without a runtime.
 *
 * Usage: openssl-epoll CERTIFICATE KEY (PEM). It listens on a port that the kernel chooses, prints the
 * address in the format of our server's ready file, and echoes until it is killed.
 *
 * What a careful author does: read_ahead with a buffer of 64 KiB, so that a read takes what there is
 * and not a header of five bytes and then a record; the socket is level-triggered, and is read again
 * only if OpenSSL holds bytes, so that no read finds nothing; all records that one read brought are
 * echoed by one SSL_write; an idle connection gives its buffers back. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 1024, BUFFER = 64 * 1024 };

struct peer {
    SSL *ssl;
    int descriptor;
    uint32_t wanted;
    /* What the peer has not taken yet. Meanwhile nothing is read from it. */
    unsigned char *owed;
    size_t length;
};

static int epoll;
static unsigned char buffer[BUFFER];

static void fail(const char *what) {
    fprintf(stderr, "openssl-epoll: %s: %s\n", what, strerror(errno));
    ERR_print_errors_fp(stderr);
    exit(1);
}

/* Registers the peer for these events, unless it is. */
static int want(struct peer *peer, uint32_t events) {
    if (peer->wanted == events) return 0;
    struct epoll_event event = {.events = events, .data.ptr = peer};
    peer->wanted = events;
    return epoll_ctl(epoll, EPOLL_CTL_MOD, peer->descriptor, &event);
}

static void drop(struct peer *peer) {
    SSL_free(peer->ssl);
    close(peer->descriptor);
    free(peer->owed);
    free(peer);
}

/* Waits for what OpenSSL needs after a call that failed. -1 means that there is nothing to wait for:
 * the session has ended or failed. */
static int wait_for(struct peer *peer, int error) {
    switch (error) {
    case SSL_ERROR_WANT_READ: return want(peer, EPOLLIN);
    case SSL_ERROR_WANT_WRITE: return want(peer, EPOLLOUT);
    case SSL_ERROR_ZERO_RETURN: SSL_shutdown(peer->ssl); return -1;
    default: return -1;
    }
}

static int owe(struct peer *peer, const unsigned char *bytes, size_t length) {
    unsigned char *owed = malloc(length);
    if (!owed) return -1;
    memcpy(owed, bytes, length);
    free(peer->owed);
    peer->owed = owed;
    peer->length = length;
    return 0;
}

/* Writes all of it, or keeps the rest. */
static int send_all(struct peer *peer, const unsigned char *bytes, size_t length) {
    while (length > 0) {
        size_t written;
        int result = SSL_write_ex(peer->ssl, bytes, length, &written);
        if (!result) {
            int error = SSL_get_error(peer->ssl, result);
            return owe(peer, bytes, length) ? -1 : wait_for(peer, error);
        }
        bytes += written;
        length -= written;
    }
    free(peer->owed);
    peer->owed = NULL;
    return want(peer, EPOLLIN);
}

/* Does what can be done after an event. -1 means that the peer is to be dropped. */
static int turn(struct peer *peer) {
    if (!SSL_is_init_finished(peer->ssl)) {
        int result = SSL_accept(peer->ssl);
        if (result != 1) return wait_for(peer, SSL_get_error(peer->ssl, result));
        if (want(peer, EPOLLIN)) return -1;
        /* The first message may have come with the end of the handshake. */
        if (!SSL_has_pending(peer->ssl)) return 0;
    }
    if (peer->owed && send_all(peer, peer->owed, peer->length)) return -1;
    while (!peer->owed) {
        size_t length = 0, read;
        int result;
        do {
            result = SSL_read_ex(peer->ssl, buffer + length, BUFFER - length, &read);
            if (result) length += read;
        } while (result && length < BUFFER && SSL_has_pending(peer->ssl));
        int error = result ? SSL_ERROR_NONE : SSL_get_error(peer->ssl, result);
        if (length && send_all(peer, buffer, length)) return -1;
        /* The end of the session is met again when nothing is owed. */
        if (peer->owed) return 0;
        if (error) return wait_for(peer, error);
        if (!SSL_has_pending(peer->ssl)) return 0;
    }
    return 0;
}

static void accept_all(int listener, SSL_CTX *context) {
    for (;;) {
        int descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0) {
            if (errno == EAGAIN || errno == ECONNABORTED) return;
            fail("accept4");
        }
        struct peer *peer = calloc(1, sizeof *peer);
        if (!peer) fail("calloc");
        *peer = (struct peer){.ssl = SSL_new(context), .descriptor = descriptor, .wanted = EPOLLIN};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
        if (!peer->ssl || !SSL_set_fd(peer->ssl, descriptor)) fail("SSL_new");
        SSL_set_accept_state(peer->ssl);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, descriptor, &event)) fail("epoll_ctl");
    }
}

static SSL_CTX *context_of(const char *certificate, const char *key) {
    SSL_CTX *context = SSL_CTX_new(TLS_server_method());
    /* What rustls negotiates with the same client: the client's first suite, TLS 1.3. */
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) ||
        !SSL_CTX_set_ciphersuites(context, "TLS_AES_256_GCM_SHA384") ||
        SSL_CTX_use_certificate_chain_file(context, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
        fail("the certificate or its key");
    SSL_CTX_set_read_ahead(context, 1);
    SSL_CTX_set_default_read_buffer_len(context, BUFFER);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                  SSL_MODE_RELEASE_BUFFERS);
    return context;
}

int main(int count, char **arguments) {
    if (count != 3) return 2;
    signal(SIGPIPE, SIG_IGN);
    SSL_CTX *context = context_of(arguments[1], arguments[2]);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int on = 1;
    /* Accepted sockets inherit TCP_NODELAY. */
    if (listener < 0 || setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) ||
        bind(listener, (struct sockaddr *)&address, length) || listen(listener, 1024) ||
        getsockname(listener, (struct sockaddr *)&address, &length))
        fail("listen");
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event)) fail("epoll");
    printf("{\"listeners\":[{\"address\":\"127.0.0.1:%d\"}]}\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS];
        int ready = epoll_wait(epoll, events, EVENTS, -1);
        if (ready < 0 && errno != EINTR) fail("epoll_wait");
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (!peer) {
                accept_all(listener, context);
                continue;
            }
            ERR_clear_error();
            if (turn(peer)) drop(peer);
        }
    }
}
